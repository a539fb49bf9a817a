"""Tiny Hugging Face directories with random weights, made and saved by transformers' own classes."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR_SCALING = {"rope_type": "linear", "factor": 4.0}


def build(
    directory: Path,
    family: str = "llama",
    *,
    tied: bool = False,
    vocab_size: int = 256,
    num_layers: int = 2,
    hidden_size: int = 64,
    ffn_size: int = 96,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_dim: int | None = None,
    max_positions: int = 128,
    rope_scaling: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    sharded: bool = False,
    seed: int = 0,
) -> Path:
    """Write config, safetensors (several files where `sharded`) and a word-level tokenizer; return `directory`.

    Norms are around 1 and biases around 0, neither exactly so, and the matrices are large enough for logits to differ:
    a mix-up of tensors shows. The tokenizer knows the words `w4`, `w5`, …; transformers reads a qwen2 directory's as a
    class of its own, which knows none of them.
    """
    config = AutoConfig.for_model(
        family,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=ffn_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=tied,
        rope_parameters={"rope_theta": 10000.0, **(rope_scaling or {"rope_type": "default"})},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **({"head_dim": head_dim or hidden_size // num_heads} if family != "qwen2" else {}),
        **({"sliding_window": None} if family == "mistral" else {}),
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    _randomize(model, seed)
    model.save_pretrained(directory, max_shard_size="40KB" if sharded else "5GB")
    _tokenizer(vocab_size).save_pretrained(directory)
    return directory


def _randomize(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            is_norm = parameter.ndim == 1 and not name.endswith("bias")
            parameter.copy_(1 + 0.2 * values if is_norm else 0.1 * values)


def _tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, **{f"w{i}": i for i in range(4, vocab_size)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def read_config(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_text())


def change_config(directory: Path, **changes: Any) -> None:
    """Rewrite config.json; None removes the key."""
    config = {**read_config(directory), **changes}
    (directory / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
