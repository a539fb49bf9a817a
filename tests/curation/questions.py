"""Candidates, for the tests of curation."""

from collections.abc import Sequence

from megatron_k15.curation.outcome import Candidate
from tests.sampling.scripted_model import question


def candidate(text: str, answer: str = "7", identifier: str = "q", **more: object) -> Candidate:
    return Candidate(question=question(text, answer, identifier, **more))


def reasons(candidates: Sequence[Candidate]) -> dict[str, str | None]:
    return {one.question.id: one.drop.reason if one.drop else None for one in candidates}
