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


def text_tokens(tokenizer: Any, text: str) -> list[int]:
    """A text's token ids and nothing else: where it spells a control token, such as the end of a sequence, the letters
    are meant. Foreign text must not end a document or speak for another role."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
