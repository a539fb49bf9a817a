"""The classic reward model as a source of verdicts: a score above the threshold says right.

A pair that it cannot judge (no answer in time, too many tokens) is None, never wrong: what that is worth is the asker's
choice.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from megatron_k15.config import RewardModelConfig
from megatron_k15.errors import EngineError
from megatron_k15.rewards.verdict_cache import VerdictCache, content_key
from megatron_k15.rewards.verdicts import AnswerPair, Verdict

logger = logging.getLogger(__name__)

Encode = Callable[[AnswerPair], tuple[int, ...] | None]
"""The token ids of the very text that it was trained on; None where there are none."""

MAX_BATCH = 64
"""Pairs in one request; vLLM works on several requests at once."""


class Scores(Protocol):
    async def scores(self, sequences: Sequence[Sequence[int]], limit_seconds: float) -> Sequence[float]:
        """
        Raises:
            EngineError: there were none.
        """
        ...


class ClassicJudge:
    """A `VerdictSource`."""

    name = "classic_rm"

    def __init__(
        self, model: Scores, encode: Encode, config: RewardModelConfig, cache: VerdictCache, *, model_name: str
    ) -> None:
        """
        Args:
            model_name: verdicts of another model are not taken for this one's.
        """
        self._model = model
        self._encode = encode
        self._config = config
        self._cache = cache
        self._model_name = model_name
        self._places = asyncio.Semaphore(config.max_concurrent_requests)

    async def judge(self, pairs: Sequence[AnswerPair]) -> list[Verdict]:
        tokens = [self._encode(pair) for pair in pairs]
        fits = {one for one in tokens if one is not None and len(one) <= self._config.engine.max_model_len}
        open_ones = [one for one in fits if self._cache.get(self._key(one)) is None]
        batches = [open_ones[start : start + MAX_BATCH] for start in range(0, len(open_ones), MAX_BATCH)]
        await asyncio.gather(*(self._score(batch) for batch in batches))
        return [self._cache.get(self._key(one)) if one in fits else None for one in tokens]

    async def _score(self, batch: Sequence[tuple[int, ...]]) -> None:
        async with self._places:
            for attempt in range(1, self._config.num_attempts + 1):
                try:
                    scores = await self._model.scores(batch, self._config.request_timeout_seconds)
                    break
                except EngineError as error:
                    logger.warning("the reward model gave no scores (attempt %d): %s", attempt, error)
            else:
                return
        for tokens, score in zip(batch, scores, strict=True):
            self._cache.put(self._key(tokens), score > self._config.threshold)

    def _key(self, tokens: tuple[int, ...]) -> str:
        return content_key("classic", self._model_name, self._config.threshold, tokens)
