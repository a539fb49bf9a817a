"""What has to be known before vLLM is started: where it will run, and which token ids its model has."""

import json
from pathlib import Path

import torch

from megatron_k15.errors import ModelError


def on_cpu() -> bool:
    """True where vLLM runs on the CPU: torch sees no GPU."""
    return not torch.cuda.is_available()


def vocab_size(model_dir: Path) -> int:
    """Number of token ids of the model in a Hugging Face directory.

    Raises:
        ModelError: no readable config.json, or none that names a vocabulary.
    """
    path = model_dir / "config.json"
    try:
        config = json.loads(path.read_text())
        return int((config.get("text_config") or config)["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} must be a Hugging Face model config with vocab_size; {error!r}") from error
