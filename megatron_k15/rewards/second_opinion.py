"""A rule and a reward model on the same answer: which of them counts, and where they part."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_k15.config import RewardModelConfig
from megatron_k15.errors import RewardError
from megatron_k15.rewards.verdicts import AnswerPair, VerdictSource


@dataclass(kw_only=True)
class OpinionCounts:
    """So far."""

    num_asked: int = 0
    num_undecided: int = 0
    num_made_right: int = 0
    """The rule said wrong, the model right."""
    num_made_wrong: int = 0
    """The rule said right, the model wrong: only where it is asked `always`."""

    @property
    def num_decided(self) -> int:
        return self.num_asked - self.num_undecided

    @property
    def num_parted(self) -> int:
        return self.num_made_right + self.num_made_wrong


class SecondOpinion:
    def __init__(self, source: VerdictSource, config: RewardModelConfig, *, overruled: Path | None = None) -> None:
        """
        Args:
            overruled: a file for every pair on which the model did not say what the rule said, for people to read;
                appended to.
        """
        self._source = source
        self._config = config
        self._overruled = overruled
        self.counts = OpinionCounts()

    def covers(self, task: str) -> bool:
        return task in self._config.tasks

    async def judge(self, pair: AnswerPair, by_rule: bool) -> bool:
        """
        Args:
            by_rule: the rule's verdict on the same pair.

        Raises:
            RewardError: no verdict, and `reward_model.fallback` is `stop`.
        """
        if by_rule and self._config.decides == "after_rule_wrong":
            return True
        (verdict,) = await self._source.judge([pair])
        self.counts.num_asked += 1
        if verdict is None:
            self.counts.num_undecided += 1
            return self._fall_back(pair, by_rule)
        self.counts.num_made_right += verdict and not by_rule
        self.counts.num_made_wrong += by_rule and not verdict
        if self._overruled is not None and verdict is not by_rule:
            with self._overruled.open("a", encoding="utf-8") as file:
                row = {"by_rule": by_rule, "by_model": verdict, **asdict(pair)}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return verdict

    def _fall_back(self, pair: AnswerPair, by_rule: bool) -> bool:
        match self._config.fallback:
            case "rule":
                return by_rule
            case "wrong":
                return False
            case _:
                raise RewardError(
                    f"the reward model must give a verdict (reward_model.fallback=stop); it gave none on "
                    f"{pair.given[:100]!r} against {pair.reference[:100]!r}"
                )
