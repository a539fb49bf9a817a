"""Who answers prompts: vLLM started here, or an OpenAI-compatible endpoint."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import aiohttp

from megatron_k15.config import PromptConfig
from megatron_k15.engines.pool import EnginePool
from megatron_k15.engines.types import GenerateRequest
from megatron_k15.errors import DataError, EngineError
from megatron_k15.prompts.question import Question
from megatron_k15.prompts.tokenization import PromptEncoder
from megatron_k15.rows.problems import Problems

MAX_IN_FLIGHT = 64
NUM_ATTEMPTS = 3
RETRY_SECONDS = 1.0
"""Before the second attempt; doubled before each further one."""


class AnsweringError(Exception):
    """Nobody answered: nothing is known of the prompt, try again later."""


class Answer(NamedTuple):
    text: str
    num_tokens: int
    """With the end-of-sequence token."""
    is_whole: bool
    """False where a limit of tokens cut it off."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """How a prompt is put, and how often."""

    instruction: str
    """Holds {prompt}."""
    num_answers: int
    temperature: float
    max_tokens: int
    seed: int


class Answerer(Protocol):
    @property
    def name(self) -> str:
        """The model: results of another model are not taken for this one's."""
        ...

    async def answers(self, question: Question, ask: Ask) -> Sequence[Answer]:
        """`ask.num_answers` responses.

        Raises:
            AnsweringError: none could be had.
        """
        ...


@dataclass(kw_only=True)
class PoolAnswerer:
    """vLLM of our own.

    Args:
        max_model_len: `engine.max_model_len`; a prompt that leaves no room for an answer cannot be asked.
        start: starts the pool before the first question: a run that knows all answers waits for no model.
    """

    name: str
    pool: EnginePool
    tokenizer: Any
    max_model_len: int
    chat_template: bool = True
    start: Callable[[], Awaitable[None]] | None = None
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def answers(self, question: Question, ask: Ask) -> Sequence[Answer]:
        """Raises EngineError besides: vLLM does not start."""
        async with self._starting:
            if self.start is not None:
                await self.start()
                self.start = None
        token_ids = self._token_ids(question, ask)
        seeds = [_seed(ask.seed, question.id, index) for index in range(ask.num_answers)]
        requests = [
            GenerateRequest(
                token_ids=token_ids,
                max_tokens=min(ask.max_tokens, self.max_model_len - len(token_ids)),
                temperature=ask.temperature,
                seed=seed,
                request_key=question.id,
            )
            for seed in seeds
        ]
        try:
            generations = await asyncio.gather(*(self.pool.generate(request) for request in requests))
        except EngineError as error:
            raise AnsweringError(str(error)) from error
        return [
            Answer(
                self.tokenizer.decode(one.token_ids, skip_special_tokens=True),
                len(one.token_ids),
                one.finish_reason == "stop",
            )
            for one in generations
        ]

    def _token_ids(self, question: Question, ask: Ask) -> tuple[int, ...]:
        config = PromptConfig(instruction=ask.instruction, max_prompt_tokens=self.max_model_len - 1)
        problems = Problems(mode="error")
        encoder = PromptEncoder(config=config, tokenizer=self.tokenizer, chat_template=self.chat_template)
        prompts = encoder.encode([question], problems)
        if not prompts:
            raise DataError(f"prompt {question.id} cannot be asked: {problems.found[0]}")
        return prompts[0].token_ids


def _seed(seed: int, identifier: str, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{identifier}/{index}".encode()).digest()[:4], "big")


@dataclass(frozen=True, kw_only=True)
class EndpointAnswerer:
    """An OpenAI-compatible server; `base_url` ends in /v1."""

    name: str
    base_url: str
    api_key: str = ""
    timeout_seconds: float = 600.0

    async def answers(self, question: Question, ask: Ask) -> Sequence[Answer]:
        messages = [dict(message) for message in question.messages] or [{"role": "user", "content": question.text}]
        messages[-1]["content"] = ask.instruction.replace("{prompt}", messages[-1]["content"])
        body = {
            "model": self.name,
            "messages": messages,
            "temperature": ask.temperature,
            "max_tokens": ask.max_tokens,
        }
        seeds = [_seed(ask.seed, question.id, index) for index in range(ask.num_answers)]
        # One by one: of several choices a server counts the tokens together.
        return await asyncio.gather(*(self._answer({**body, "seed": seed}) for seed in seeds))

    async def _answer(self, body: dict[str, Any]) -> Answer:
        for attempt in range(NUM_ATTEMPTS):
            try:
                return await self._post(body)
            except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as error:
                if attempt == NUM_ATTEMPTS - 1:
                    raise AnsweringError(
                        f"{self.base_url} must answer as OpenAI's chat completions do, with one choice and its usage; "
                        f"{error!r}"
                    ) from error
                await asyncio.sleep(RETRY_SECONDS * 2**attempt)
        raise AssertionError("the last attempt returned or raised")

    async def _post(self, body: dict[str, Any]) -> Answer:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        timeout = aiohttp.ClientTimeout(total=self.timeout_seconds)
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.post(f"{self.base_url.rstrip('/')}/chat/completions", json=body) as response,
        ):
            response.raise_for_status()
            answer = await response.json()
        (choice,) = answer["choices"]
        return Answer(
            choice["message"]["content"] or "",
            int(answer["usage"]["completion_tokens"]),
            choice.get("finish_reason") == "stop",
        )
