"""`config.json` → `Architecture`: the dense decoder families we train, or a refusal by name. Imports no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from megatron_k15.errors import ModelError

FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Hugging Face architecture → family."""

VOCABULARY_MULTIPLE = 128
"""megatron-core holds the vocabulary padded to a multiple of this, whatever the tensor-parallel size, so that one
checkpoint loads at any (power of two up to 128) size."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """`linear`: every frequency / factor. `llama3`: low frequencies / factor, with a smooth band between."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A dense decoder. Sizes are whole-model, before any split."""

    family: str
    hf_name: str
    num_layers: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    norm_eps: float
    tied_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    dtype: str
    """Of the checkpoint, as its config says: `bfloat16`, `float16` or `float32`."""
    head: str = "lm"
    """What stands on the last hidden state: `lm`, the vocabulary; `score`, a reward model's one number; `none`, the
    decoder alone."""

    @property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    @classmethod
    def from_hf(cls, source: str | Path | Mapping[str, Any]) -> Self:
        """Read a model directory or a parsed config.

        Raises:
            ModelError: no or broken config.json, an unsupported architecture, or an option that would change the maths.
        """
        config = source if isinstance(source, Mapping) else _read_config(Path(source))
        name = (config.get("architectures") or ["(none)"])[0]
        if name not in FAMILIES:
            raise ModelError(f"architecture {name} is not supported; supported are {', '.join(FAMILIES)}")
        family = FAMILIES[name]
        _refuse_options(config, name)
        theta, scaling = _rope(config)
        try:
            heads = int(config["num_attention_heads"])
            return cls(
                family=family,
                hf_name=name,
                num_layers=int(config["num_hidden_layers"]),
                hidden_size=int(config["hidden_size"]),
                ffn_size=int(config["intermediate_size"]),
                num_heads=heads,
                num_kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
                vocab_size=int(config["vocab_size"]),
                max_positions=int(config.get("max_position_embeddings", 2048)),
                rope_theta=theta,
                rope_scaling=scaling,
                norm_eps=float(config.get("rms_norm_eps", 1e-6)),
                tied_embeddings=bool(config.get("tie_word_embeddings", False)),
                qkv_bias=family == "qwen2",
                qk_norm=family == "qwen3",
                dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch."),
            )
        except KeyError as error:
            raise ModelError(f"config.json of a {name} must have {error.args[0]!r}; it does not") from error


def _read_config(directory: Path) -> Mapping[str, Any]:
    path = directory / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"a model directory needs a config.json; {directory} has none") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error


def _refuse_options(config: Mapping[str, Any], name: str) -> None:
    """Options of these families that we do not compute; ignoring one would train a different model."""
    if config.get("hidden_act", "silu") != "silu":
        raise ModelError(f"{name}: hidden_act must be silu, got {config['hidden_act']!r}")
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise ModelError(f"{name}: {key}=true is not supported")
    if config.get("quantization_config"):
        raise ModelError(f"{name}: quantised weights are not supported; de-quantise the model first")
    window = config.get("sliding_window")
    layer_types = set(config.get("layer_types") or [])
    uses_window = config.get("use_sliding_window", name == "MistralForCausalLM") or "sliding_attention" in layer_types
    if window and uses_window and window < config.get("max_position_embeddings", 2048):
        raise ModelError(f"{name}: sliding-window attention (sliding_window={window}) is not supported")


def _rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """transformers 5 keeps `rope_parameters`; transformers 4 `rope_theta` and `rope_scaling`."""
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = float(parameters.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if float(parameters.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0) != 1.0:
        raise ModelError("partial_rotary_factor must be 1; partial rotary embeddings are not supported")
    match kind:
        case "default":
            return theta, None
        case "linear":
            return theta, RopeScaling(kind="linear", factor=float(parameters["factor"]))
        case "llama3":
            return theta, RopeScaling(
                kind="llama3",
                factor=float(parameters["factor"]),
                low_freq_factor=float(parameters["low_freq_factor"]),
                high_freq_factor=float(parameters["high_freq_factor"]),
                original_max_positions=int(parameters["original_max_position_embeddings"]),
            )
        case _:
            raise ModelError(f"rope type {kind!r} is not supported; supported are default, linear, llama3")
