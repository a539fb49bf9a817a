"""What became of one problem, as a line of `results.jsonl`: enough to go on from, and to say why."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

Reason = Literal[
    "kept",
    "special_judge",
    "too_few_submissions",
    "no_generator",
    "generator_fails",
    "too_few_valid_cases",
    "submissions_disagree",
]

STAGES: tuple[tuple[str, tuple[Reason, ...]], ...] = (
    ("without special judge", ("special_judge",)),
    ("with enough submissions", ("too_few_submissions",)),
    ("with a generator that runs", ("no_generator", "generator_fails")),
    ("with enough valid cases", ("too_few_valid_cases",)),
    ("kept", ("submissions_disagree",)),
)
"""The funnel: each stage, and the reasons for which problems do not reach it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    id: str
    fingerprint: str
    """Of the problem and the settings: a changed one is done again."""
    reason: Reason
    detail: str
    """In words, with the numbers or the error."""
    num_inputs: int = 0
    num_valid_cases: int = 0
    num_passing: int = 0
    generator: str | None = None
    prompt: dict[str, Any] | None = None
    """The row of the training set; None unless kept."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**value)
