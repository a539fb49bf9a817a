"""Who may judge an answer: answer pairs in, verdicts out, whatever stands behind (a rule, a reward model, §2.3.5).

A source is asked about many pairs at once, so that it can batch. It says None where it cannot tell: no answer within
its limit, no verdict in what a model wrote, a form that a rule does not know. What None is worth is the asker's choice.

Example::

    pairs = [AnswerPair(question="What is 12 + 7?", reference="19", given="19.0", response="It is \\boxed{19.0}")]
    await source.judge(pairs)    # [True]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class AnswerPair:
    """One answer beside the reference answer. A rule looks at `reference` and `given`, a model at all of it."""

    reference: str
    given: str
    """The answer as written in the response: what stood in the box."""
    question: str = ""
    response: str = ""
    """The whole response, or empty where there is none but `given`."""


Verdict = bool | None
"""True: right. False: wrong. None: undecided."""


class VerdictSource(Protocol):
    """What a rule and a reward model have in common. Whoever makes a source also closes it."""

    @property
    def name(self) -> str:
        """Stands in tables and metrics: `rule`, `classic_rm`, `cot_rm`."""
        ...

    async def judge(self, pairs: Sequence[AnswerPair]) -> Sequence[Verdict]:
        """One verdict per pair, in order.

        Raises:
            RewardError: the source is gone for good; an answer it cannot judge is None, never an error.
        """
        ...
