"""The chain-of-thought reward model as a source of verdicts: votes, attempts, limits, cache.

An answer it cannot judge (nothing parsable, no answer in time, a tie) is None, never wrong: what that is worth is the
asker's choice.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from megatron_k15.config import RewardModelConfig
from megatron_k15.errors import EngineError
from megatron_k15.rewards.cot.prompt import VERSION, answer_schema, messages
from megatron_k15.rewards.cot.verdict import majority, read_verdict
from megatron_k15.rewards.verdict_cache import VerdictCache, content_key
from megatron_k15.rewards.verdicts import AnswerPair, Verdict

logger = logging.getLogger(__name__)


class Chat(Protocol):
    """A chat model behind `/v1/chat/completions`."""

    @property
    def name(self) -> str:
        """Which model: verdicts of another are not taken for this one's."""
        ...

    async def chat(self, body: Mapping[str, Any], limit_seconds: float) -> str:
        """The text of its answer.

        Raises:
            EngineError: it gave none.
        """
        ...


@dataclass(kw_only=True)
class JudgeCounts:
    """So far."""

    num_asked: int = 0
    num_cached: int = 0
    num_undecided: int = 0
    num_failed_attempts: int = 0
    """Answers that did not come, or that no verdict could be read from."""


class CotJudge:
    """A `VerdictSource`."""

    name = "cot_rm"

    def __init__(self, chat: Chat, config: RewardModelConfig, cache: VerdictCache) -> None:
        self._chat = chat
        self._config = config
        self._cache = cache
        self._places = asyncio.Semaphore(config.max_concurrent_requests)
        self._under_way: dict[str, asyncio.Task[Verdict]] = {}
        self.counts = JudgeCounts()

    async def judge(self, pairs: Sequence[AnswerPair]) -> list[Verdict]:
        return list(await asyncio.gather(*(self._judge(pair) for pair in pairs)))

    async def _judge(self, pair: AnswerPair) -> Verdict:
        asked = messages(pair, max_response_characters=self._config.max_response_characters)
        config = self._config
        key = content_key(VERSION, self._chat.name, config.num_votes, config.temperature, config.max_tokens, asked)
        if (known := self._cache.get(key)) is not None:
            self.counts.num_cached += 1
            return known
        if key not in self._under_way:  # the same answer to the same question, asked about twice at once
            self._under_way[key] = asyncio.create_task(self._vote(asked, key))
        try:
            return await self._under_way[key]
        finally:
            self._under_way.pop(key, None)

    async def _vote(self, asked: list[dict[str, str]], key: str) -> Verdict:
        self.counts.num_asked += 1
        votes = await asyncio.gather(*(self._one_vote(asked, key, index) for index in range(self._config.num_votes)))
        verdict = majority(list(votes))
        if verdict is None:
            self.counts.num_undecided += 1
        else:
            self._cache.put(key, verdict)
        return verdict

    async def _one_vote(self, asked: list[dict[str, str]], key: str, index: int) -> Verdict:
        for attempt in range(self._config.num_attempts):
            async with self._places:
                verdict = await self._ask(asked, seed=int(key[:8], 16) + 1000 * index + attempt)
            if verdict is not None:
                return verdict
            self.counts.num_failed_attempts += 1
        return None

    async def _ask(self, asked: list[dict[str, str]], *, seed: int) -> Verdict:
        config = self._config
        schema = answer_schema(max_reasoning_characters=config.max_reasoning_characters)
        body = {
            "messages": asked,
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            "seed": seed % 2**31,
            "response_format": {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}},
        }
        try:
            return read_verdict(await self._chat.chat(body, config.request_timeout_seconds))
        except EngineError as error:
            logger.warning("the reward model gave no verdict: %s", error)
            return None
