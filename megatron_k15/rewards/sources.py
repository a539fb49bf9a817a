"""The sources of verdicts by name, each opened when it is asked for. Another source is another entry.

| name | |
| --- | --- |
| `text` | equal text, white space aside: the floor |
| `quick_rule` | exact values in this process; undecided where it is not sure |
| `math_verify` | math-verify alone, in a worker process |
| `rule` | math by rule as runs use it: the quick rule, math-verify for the rest |
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from megatron_k15.config import RewardConfig
from megatron_k15.rewards.math_rule import MathRule, MathVerify
from megatron_k15.rewards.quick_rule import quick_verdict
from megatron_k15.rewards.verdicts import AnswerPair, Verdict, VerdictSource
from megatron_k15.rewards.workers import WorkerPool

Opener = Callable[[], AbstractAsyncContextManager[VerdictSource]]


@dataclass(frozen=True, kw_only=True)
class ByFunction:
    """A source that is a plain function of (given, reference)."""

    name: str
    function: Callable[[str, str], Verdict]

    async def judge(self, pairs: Sequence[AnswerPair]) -> list[Verdict]:
        return [self.function(pair.given, pair.reference) for pair in pairs]


def rule_sources(config: RewardConfig) -> Mapping[str, Opener]:
    """Sources that need no model.

    Args:
        config: `num_workers` and `timeout_seconds` of the worker processes.
    """

    @asynccontextmanager
    async def function(name: str, function: Callable[[str, str], Verdict]) -> AsyncIterator[VerdictSource]:
        yield ByFunction(name=name, function=function)

    @asynccontextmanager
    async def workers(kind: Callable[[WorkerPool], VerdictSource]) -> AsyncIterator[VerdictSource]:
        pool = WorkerPool(config.num_workers, config.timeout_seconds)
        try:
            source = kind(pool)
            # A first, uncounted pair starts the worker: seconds that are no answer's.
            await source.judge([AnswerPair(reference=r"\sqrt{7+4\sqrt{3}}", given=r"2+\sqrt{3}")])
            yield source
        finally:
            pool.close()

    return {
        "text": lambda: function("text", _same_text),
        "quick_rule": lambda: function("quick_rule", quick_verdict),
        "math_verify": lambda: workers(MathVerify),
        "rule": lambda: workers(MathRule),
    }


def _same_text(given: str, reference: str) -> bool:
    return " ".join(given.split()) == " ".join(reference.split())
