"""The tokenizer of a model directory."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from megatron_k15.errors import DataError, ModelError


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


def refuse_control_tokens(tokenizer: Any, texts: Iterable[str]) -> None:
    """Of messages that a chat template is about to write between control tokens: none may spell one itself, since the
    tokenizer could not tell it from the template's.

    Raises:
        DataError: one does.
    """
    added = tokenizer.added_tokens_decoder.values()
    control = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)} - {""}
    for text in texts:
        if found := next((token for token in sorted(control) if token in text), None):
            raise DataError(
                f"a message must not spell one of the tokenizer's control tokens; found {found!r}: it would end the "
                "turn, or speak for another role. Take it out, or put a space into it"
            )
