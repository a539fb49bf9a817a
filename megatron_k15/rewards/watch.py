"""Signs that a policy learns to please the reward instead of solving problems: numbers each iteration, and a warning
where one passes its threshold.

A policy that found a gap in a reward shows it as a jump of that reward, as verdicts on which rule and model part, as
answers of an odd shape, or as one text that answers everything.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from megatron_k15.types import Group

MEMORY = 0.8
"""Weight of the past in the running mean and variance of each reward term."""
FEW = 4
"""Iterations before drift is spoken of."""
ANSWER = re.compile(r"\\boxed|<answer>")
REPEATED = re.compile(r"(.)\1{19}", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class WatchLimits:
    """Above these a warning is given, once until the value has fallen below again."""

    drift: float = 4.0
    """Of a reward term's mean, in its own standard deviations over past iterations."""
    disagreement: float = 0.2
    """Share of answers on which rule and reward model part."""
    several_answers: float = 0.3
    """Share of responses that give more than one final answer."""
    repeated_characters: float = 0.2
    """Share of responses with one character 20 times in a row."""
    duplicates: float = 0.3
    """Share of responses whose text was given to another problem too."""


class RewardWatch:
    def __init__(self, warn: Callable[[str], None], limits: WatchLimits | None = None) -> None:
        self._warn = warn
        self._limits = limits or WatchLimits()
        self._past: dict[str, tuple[int, float, float]] = {}
        """Reward term → iterations seen, running mean, running variance."""
        self._above: set[str] = set()

    def look(self, groups: Sequence[Group], *, num_asked: int = 0, num_parted: int = 0) -> dict[str, float]:
        """The iteration's numbers; warns.

        Args:
            num_asked: answers that a reward model gave a verdict on, in this iteration.
            num_parted: those on which the rule said otherwise.
        """
        if not groups:
            return {}
        values = {**_shapes(groups), "drift": max(self._drifts(groups).values(), default=0.0)}
        if num_asked:
            values["disagreement"] = num_parted / num_asked
        for name, value in values.items():
            self._judge(name, value, getattr(self._limits, name))
        return values

    def _drifts(self, groups: Sequence[Group]) -> dict[str, float]:
        scores = [score for group in groups for score in group.scores]
        drifts = {}
        for name in sorted({part for score in scores for part in score.parts}):
            mean = fmean(score.parts.get(name, 0.0) for score in scores)
            seen, centre, variance = self._past.get(name, (0, mean, 0.0))
            # The floor keeps a term that has hardly moved so far from turning any move into an alarm.
            deviation = max(variance, 1e-4) ** 0.5
            if seen >= FEW:
                drifts[name] = abs(mean - centre) / deviation
            difference = mean - centre
            self._past[name] = (
                seen + 1,
                centre + (1 - MEMORY) * difference,
                MEMORY * (variance + (1 - MEMORY) * difference**2),
            )
        return drifts

    def _judge(self, name: str, value: float, limit: float) -> None:
        if value <= limit:
            self._above.discard(name)
        elif name not in self._above:
            self._above.add(name)
            self._warn(
                f"warning: reward watch: {name.replace('_', ' ')} is {value:.2f}, above {limit:g}: look at samples/ "
                "before you trust the reward"
            )


def _shapes(groups: Sequence[Group]) -> dict[str, float]:
    texts = [trajectory.text for group in groups for trajectory in group.trajectories]
    problems = Counter(
        text for group in groups for text in {trajectory.text for trajectory in group.trajectories} if text
    )
    return {
        "several_answers": fmean(len(ANSWER.findall(text)) > 1 for text in texts),
        "repeated_characters": fmean(REPEATED.search(text) is not None for text in texts),
        "duplicates": fmean(problems[text] > 1 for text in texts),
    }
