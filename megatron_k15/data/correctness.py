"""A row with a judged response → what the classic reward model reads (§2.3.5): question, reference, response.

Its score is taken at the last token, the end-of-sequence token.
"""

from dataclasses import dataclass
from typing import Any

from megatron_k15.data.chat import within_vocabulary
from megatron_k15.data.encoded import Encoded
from megatron_k15.errors import DataError
from megatron_k15.models.tokenizer import text_tokens
from megatron_k15.rows.files import BadRowError, encodable


@dataclass(frozen=True, kw_only=True)
class JudgementEncoder:
    """Args:
    tokenizer: a Hugging Face tokenizer with an end-of-sequence token.
    vocab_size: of the model.
    """

    tokenizer: Any
    vocab_size: int

    def __post_init__(self) -> None:
        if self.tokenizer.eos_token_id is None:
            raise DataError("a reward model scores the end-of-sequence token; the model's tokenizer has none")

    def tokens(self, question: str, reference: str, response: str) -> tuple[int, ...]:
        """
        Raises:
            BadRowError: a token that the model does not have.
        """
        text = f"Question:\n{question}\n\nReference answer:\n{reference}\n\nResponse:\n{response}"
        # The response is foreign: an end of the sequence that it spells is letters.
        ids = (*text_tokens(self.tokenizer, text), self.tokenizer.eos_token_id)
        return within_vocabulary(ids, self.vocab_size)

    def encode(self, row: dict[str, Any]) -> list[Encoded]:
        """
        Raises:
            BadRowError: a field is missing or wrong.
        """
        texts = [_text(row, name) for name in ("question", "reference", "response")]
        if not isinstance(row.get("correct"), bool):
            raise BadRowError(f"`correct` must be true or false; got {row.get('correct')!r}")
        tokens = self.tokens(*texts)
        return [Encoded(token_ids=tokens, loss_mask=(False,) * len(tokens), label=float(row["correct"]))]


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise BadRowError(f"`{name}` must be text; got {type(value).__name__}")
    return encodable(value, name)
