"""Math by rule as a source of verdicts: the quick rule in this process, math-verify in a worker for what it leaves."""

import asyncio
from collections.abc import Sequence

from megatron_k15.rewards.quick_rule import quick_verdict
from megatron_k15.rewards.verdicts import AnswerPair, Verdict
from megatron_k15.rewards.workers import WorkerPool


class MathRule:
    """A `VerdictSource` that never says None: what nobody can read, or only past the pool's limit, is wrong."""

    name = "rule"

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    async def judge(self, pairs: Sequence[AnswerPair]) -> list[Verdict]:
        return list(await asyncio.gather(*(self.judge_answer(pair.given, pair.reference) for pair in pairs)))

    async def judge_answer(self, given: str, reference: str) -> bool:
        """Raises RewardError: a worker could not be started."""
        decided = quick_verdict(given, reference)
        return decided if decided is not None else await _math_verify(self._pool, given, reference)


class MathVerify:
    """math-verify alone, as a `VerdictSource`: what the rule is measured against."""

    name = "math_verify"

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    async def judge(self, pairs: Sequence[AnswerPair]) -> list[Verdict]:
        return list(await asyncio.gather(*(_math_verify(self._pool, pair.given, pair.reference) for pair in pairs)))


async def _math_verify(pool: WorkerPool, given: str, reference: str) -> bool:
    return await pool.judge({"kind": "math", "given": given, "reference": reference})
