"""Groups of responses, new or unfinished → the same groups, further on, as each has done its part of the iteration.

All requests of an iteration are in flight at once; the engine pool balances them over the vLLM instances and sends
again what a dying instance did not finish. Groups come out in the order in which they finish, so that rewards are
computed while other groups still generate, and a straggler holds back nobody. What is sampled goes into a journal
before it counts; what the journal already has, from a run that was killed in this iteration, is not sampled again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from megatron_k15.engines.types import GenerateRequest, Generation
from megatron_k15.rollout.sampling import Sampling
from megatron_k15.rollout.segments import Decode, extended, key_of, next_request, record_of
from megatron_k15.types import SampledGroup, SegmentKey, SegmentRecord, Trajectory

OnProgress = Callable[[int, int], None]
"""Called with (responses done, tokens sampled so far) after each response."""


class Generator(Protocol):
    """The one thing asked of the engine pool here."""

    async def generate(self, request: GenerateRequest) -> Generation: ...


class Journal(Protocol):
    """What was sampled, durably."""

    async def find(self, key: SegmentKey) -> SegmentRecord | None: ...

    async def record(self, record: SegmentRecord) -> None: ...

    async def start_iteration(self, iteration: int) -> None:
        """What is recorded from now on stands apart from what was recorded before."""
        ...


class NoJournal:
    """For evaluation, whose answers are not kept."""

    async def find(self, key: SegmentKey) -> SegmentRecord | None:
        return None

    async def record(self, record: SegmentRecord) -> None:
        return None

    async def start_iteration(self, iteration: int) -> None:
        return None


async def generate_groups(
    pool: Generator,
    groups: Sequence[SampledGroup],
    sampling: Sampling,
    *,
    decode: Decode,
    run_seed: int,
    iteration: int,
    journal: Journal | None = None,
    on_progress: OnProgress = lambda responses, tokens: None,
) -> AsyncIterator[SampledGroup]:
    """Yield each group when none of its responses is sampled any more in this iteration; `is_complete` tells whether
    they have ended. Complete ones have their text.

    Raises:
        EngineError: the pool gave up; requests still in flight are cancelled first.
        ReplayError: the journal could not be written.
    """
    journal = journal or NoJournal()
    counts = [0, 0]

    async def one(group: SampledGroup, trajectory: Trajectory) -> Trajectory:
        before = trajectory.num_response_tokens
        if trajectory.is_open:
            key = key_of(group, trajectory, iteration)
            record = await journal.find(key)
            if record is None:
                generation = await pool.generate(next_request(trajectory, key, sampling, run_seed=run_seed))
                record = record_of(key, trajectory, generation, sampling, decode)
                await journal.record(record)
            trajectory = extended(trajectory, record)
        counts[0] += 1
        counts[1] += trajectory.num_response_tokens - before
        on_progress(*counts)
        return trajectory

    async def advance(group: SampledGroup) -> SampledGroup:
        trajectories = await asyncio.gather(*(one(group, trajectory) for trajectory in group.trajectories))
        return with_text(replace(group, trajectories=tuple(trajectories)), decode)

    tasks = [asyncio.ensure_future(advance(group)) for group in groups]
    try:
        for finished in asyncio.as_completed(tasks):
            yield await finished
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def with_text(group: SampledGroup, decode: Decode) -> SampledGroup:
    """Decode the responses of a complete group; an open one stays as it is."""
    if not group.is_complete:
        return group
    decoded = (replace(trajectory, text=decode(trajectory.response_token_ids)) for trajectory in group.trajectories)
    return replace(group, trajectories=tuple(decoded))
