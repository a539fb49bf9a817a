"""Prompts → groups of trajectories, as each group's last response ends.

All requests of an iteration are in flight at once; the engine pool balances them over the vLLM instances and sends
again what a dying instance did not finish. Groups come out in the order in which they finish, so that rewards are
computed while other groups still generate.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from megatron_k15.config import RolloutConfig
from megatron_k15.engines.types import GenerateRequest, Generation
from megatron_k15.types import Prompt, Segment, Trajectory

Decode = Callable[[Sequence[int]], str]
OnProgress = Callable[[int, int], None]
"""Called with (responses finished, response tokens so far) after each response."""


class Generator(Protocol):
    """The one thing asked of the engine pool here."""

    async def generate(self, request: GenerateRequest) -> Generation: ...


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the responses of one call are sampled."""

    num_responses: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    """Go on past the end-of-sequence token: every response has `max_tokens`."""
    repetition_max_pattern_tokens: int = 0
    repetition_min_count: int = 8

    @classmethod
    def for_training(cls, config: RolloutConfig) -> "Sampling":
        return cls(
            num_responses=config.responses_per_prompt,
            max_tokens=config.max_response_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            stop=config.stop_at,
            repetition_max_pattern_tokens=config.repetition_max_pattern_tokens,
            repetition_min_count=config.repetition_min_count,
        )

    @classmethod
    def greedy(cls, config: RolloutConfig) -> "Sampling":
        """One response per prompt at temperature 0, for evaluation."""
        return cls(num_responses=1, max_tokens=config.max_response_tokens, temperature=0.0, stop=config.stop_at)


def request_seed(run_seed: int, iteration: int, prompt_id: str, sample_index: int) -> int:
    """A seed that depends on nothing but what is sampled: the same after a restart, whichever instance serves it."""
    text = f"{run_seed}/{iteration}/{prompt_id}/{sample_index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


async def generate_groups(
    pool: Generator,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    decode: Decode,
    run_seed: int,
    iteration: int,
    on_progress: OnProgress = lambda responses, tokens: None,
) -> AsyncIterator[tuple[Prompt, tuple[Trajectory, ...]]]:
    """Yield (prompt, its trajectories) as groups finish.

    Raises:
        EngineError: the pool gave up; requests still in flight are cancelled first.
    """
    counts = [0, 0]

    async def one(prompt: Prompt, sample_index: int) -> Trajectory:
        request = _request(prompt, sample_index, sampling, request_seed(run_seed, iteration, prompt.id, sample_index))
        trajectory = _trajectory(prompt, sample_index, await pool.generate(request), decode)
        counts[0] += 1
        counts[1] += trajectory.num_response_tokens
        on_progress(*counts)
        return trajectory

    async def group(prompt: Prompt) -> tuple[Prompt, tuple[Trajectory, ...]]:
        trajectories = await asyncio.gather(*(one(prompt, index) for index in range(sampling.num_responses)))
        return prompt, tuple(trajectories)

    tasks = [asyncio.ensure_future(group(prompt)) for prompt in prompts]
    try:
        for finished in asyncio.as_completed(tasks):
            yield await finished
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _request(prompt: Prompt, sample_index: int, sampling: Sampling, seed: int) -> GenerateRequest:
    return GenerateRequest(
        request_key=f"{prompt.id}#{sample_index}",
        token_ids=prompt.token_ids,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop=sampling.stop,
        seed=seed,
        ignore_eos=sampling.ignore_eos,
        repetition_max_pattern_tokens=sampling.repetition_max_pattern_tokens,
        repetition_min_count=sampling.repetition_min_count,
    )


def _trajectory(prompt: Prompt, sample_index: int, generation: Generation, decode: Decode) -> Trajectory:
    segment = Segment(
        kind="sampled",
        token_ids=generation.token_ids,
        logprobs=generation.logprobs,
        loss_mask=(True,) * len(generation.token_ids),
        versions=generation.versions,
    )
    return Trajectory(
        prompt_id=prompt.id,
        sample_index=sample_index,
        prompt_token_ids=prompt.token_ids,
        segments=(segment,),
        finish_reason=generation.finish_reason,
        text=decode(generation.token_ids),
    )
