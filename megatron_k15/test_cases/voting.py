"""Which cases are valid and which problems are kept (§2.3.5): arithmetic on outputs, nothing else.

`outputs[s][c]` is what submission s printed for case c, or None where it did not end well. Outputs are compared token
by token, as answers will be.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

Outputs = Sequence[Sequence[str | None]]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The report's numbers."""

    num_cases: int = 50
    """Cases asked of a generator."""
    num_submissions: int = 10
    """Submissions that vote, drawn from those there are."""
    min_agreeing: int = 7
    """Votes that make a case valid."""
    min_valid_cases: int = 40
    min_passing: int = 9
    """Submissions that must pass all valid cases."""

    def __post_init__(self) -> None:
        for name, whole in (("min_agreeing", "num_submissions"), ("min_passing", "num_submissions")):
            if not 1 <= getattr(self, name) <= getattr(self, whole):
                raise ValueError(
                    f"{name} must be from 1 to {whole} ({getattr(self, whole)}), got {getattr(self, name)}"
                )
        if 2 * self.min_agreeing <= self.num_submissions:
            raise ValueError(
                f"min_agreeing must be more than half of num_submissions ({self.num_submissions}), got "
                f"{self.min_agreeing}: two different outputs could both win"
            )
        if not 1 <= self.min_valid_cases <= self.num_cases:
            raise ValueError(
                f"min_valid_cases must be from 1 to num_cases ({self.num_cases}), got {self.min_valid_cases}"
            )


def agreed_outputs(outputs: Outputs, thresholds: Thresholds) -> list[str | None]:
    """Per case the output that enough submissions gave, as the first of them wrote it; None where there is none: the
    case is not valid."""
    agreed: list[str | None] = []
    for given in zip(*outputs, strict=True):
        printed = [output for output in given if output is not None]
        votes = Counter(tuple(output.split()) for output in printed)
        winner, count = votes.most_common(1)[0] if votes else ((), 0)
        is_valid = count >= thresholds.min_agreeing
        agreed.append(next(output for output in printed if tuple(output.split()) == winner) if is_valid else None)
    return agreed


def passes(outputs: Outputs, agreed: Sequence[str | None]) -> list[bool]:
    """Per submission, whether it gave the agreed output in every valid case."""
    return [
        all(
            output is not None and output.split() == expected.split()
            for output, expected in zip(own, agreed, strict=True)
            if expected is not None
        )
        for own in outputs
    ]
