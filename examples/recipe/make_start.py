"""A model directory without weights: the recipe's architecture, of two million parameters, and a tokenizer.

python examples/recipe/make_start.py TOKENIZER_DIR OUTPUT_DIR
"""

import json
import sys
from pathlib import Path

from megatron_k15.models.new_tokenizer import copy_tokenizer

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}


def main(tokenizer_dir: Path, output_dir: Path) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(tokenizer_dir, output_dir)
    vocab = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    size = len(vocab["model"]["vocab"].keys() | {token["content"] for token in vocab["added_tokens"]})
    (output_dir / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": size}, indent=1) + "\n")
    print(f"wrote {output_dir}: vocabulary {size}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
