"""Math by rule as a whole, worker included: equal to every label, and cheap where an answer is hostile."""

import asyncio
from collections.abc import Sequence

from megatron_k15.rewards.math_rule import MathRule
from megatron_k15.rewards.verdicts import AnswerPair, Verdict, VerdictSource
from megatron_k15.rewards.workers import WorkerPool
from tests.rewards.answer_pairs import labelled_rows


def judge(pairs: Sequence[AnswerPair], *, timeout_seconds: float = 20.0) -> tuple[list[Verdict], int]:
    """Verdicts, and how many answers met the time limit."""
    pool = WorkerPool(1, timeout_seconds)
    try:
        source: VerdictSource = MathRule(pool)
        return list(asyncio.run(source.judge(pairs))), pool.num_timeouts
    finally:
        pool.close()


def test_verdicts_are_the_labels() -> None:
    rows = labelled_rows()
    pairs = [AnswerPair(reference=row["reference"], given=row["given"]) for row in rows]
    verdicts, _ = judge(pairs)
    assert [row for row, verdict in zip(rows, verdicts, strict=True) if verdict is not row["label"]] == []


def test_hostile_answers_are_wrong_and_end_at_the_limit() -> None:
    hostile = ["9^{9^{9^{9}}}", r"\sum_{n=1}^{99999999} n!", "(" * 4000 + ")" * 4000, "1+" * 500_000, "{" * 5000]
    pairs = [AnswerPair(reference="x+7", given=given) for given in [*hostile, "7+x"]]
    verdicts, num_timeouts = judge(pairs, timeout_seconds=1.0)
    assert verdicts == [False] * len(hostile) + [True]
    assert num_timeouts < len(hostile)
