"""What becomes of a prompt on its way: kept, or dropped with a reason and a word about it."""

from dataclasses import dataclass, field, replace
from typing import Literal, Self

from megatron_k15.prompts.question import Question

Reason = Literal[
    "bad_row",
    "too_short",
    "too_long",
    "garbled",
    "needs_image",
    "answer_too_long",
    "duplicate",
    "near_duplicate",
    "in_evaluation_set",
    "multiple_choice",
    "true_false",
    "proof",
    "trivial",
    "too_hard",
    "easy_to_hack",
    "over_represented",
]

STAGES: tuple[tuple[str, tuple[Reason, ...]], ...] = (
    ("valid", ("bad_row", "too_short", "too_long", "garbled", "needs_image", "answer_too_long")),
    ("unique and unseen", ("duplicate", "near_duplicate", "in_evaluation_set")),
    ("can be evaluated", ("multiple_choice", "true_false", "proof")),
    ("not trivial", ("trivial", "too_hard")),
    ("not easy to hack", ("easy_to_hack",)),
    ("balanced", ("over_represented",)),
)
"""In their order: what is left after each, and the reasons it drops for."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    reason: Reason
    detail: str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A prompt, what has been found out about it, and whether it is still in."""

    question: Question
    domain: str = ""
    discipline: str = ""
    pass_rate: float | None = None
    num_right_guesses: int | None = None
    drop: Drop | None = None

    @property
    def is_in(self) -> bool:
        return self.drop is None

    def dropped(self, reason: Reason, detail: str) -> Self:
        return replace(self, drop=Drop(reason=reason, detail=detail))


@dataclass(frozen=True, kw_only=True)
class Curated:
    """The result: candidates in the order they were read, and rows that could not be read."""

    candidates: tuple[Candidate, ...]
    bad_rows: tuple[str, ...] = field(default=())
    num_open: int = 0
    """Prompts that could not be sampled: the same command goes on with them."""

    @property
    def kept(self) -> list[Candidate]:
        return [candidate for candidate in self.candidates if candidate.is_in]
