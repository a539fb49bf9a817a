"""The tokenizer of a model directory."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from megatron_k15.errors import ModelError


def load_tokenizer(model_dir: Path) -> Any:
    """
    Raises:
        ModelError: there is none that transformers loads.
    """
    try:
        return AutoTokenizer.from_pretrained(model_dir)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"a model directory needs a tokenizer that transformers loads; {model_dir}: {error}"
        ) from error
