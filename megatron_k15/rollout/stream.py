"""Responses that go on while training does (in-flight updates, §2.6.2): groups in, complete groups out, at any time.

    add(groups) → … sampling on the event loop, whatever the master does … → next_complete()

New weights reach the requests in flight (the pool pauses vLLM, with requests kept, loads and resumes): vLLM says which
version sampled which token, and pieces are cut there. `cut` ends all pieces in flight without losing a token, so that
what is under way can be saved; sampling goes on from there.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from megatron_k15.engines.types import GenerateRequest, Generation
from megatron_k15.rollout.generation import Journal, with_text
from megatron_k15.rollout.sampling import Sampling
from megatron_k15.rollout.segments import Decode, extended, key_of, next_request, record_of
from megatron_k15.types import SampledGroup, Trajectory

ABORT_SECONDS = 1.0
"""Between two calls to end requests: one that was not yet sent at the first call is met by a later one."""
GroupKey = tuple[int, str]


class AbortableGenerator(Protocol):
    """What is asked of the engine pool here."""

    async def generate(self, request: GenerateRequest) -> Generation: ...

    async def abort(self) -> None: ...


class ResponseStream:
    """Lives on one event loop."""

    def __init__(
        self, pool: AbortableGenerator, sampling: Sampling, *, decode: Decode, run_seed: int, journal: Journal
    ) -> None:
        self.iteration = 0
        """In whose name requests are made."""
        self.num_sampled_tokens = 0
        """Since the start, over all pieces that have ended."""
        self._pool = pool
        self._sampling = sampling
        self._decode = decode
        self._run_seed = run_seed
        self._journal = journal
        self._groups: dict[GroupKey, SampledGroup] = {}
        self._tasks: dict[GroupKey, asyncio.Task[SampledGroup]] = {}
        self._pieces: set[asyncio.Task[None]] = set()
        self._may_ask = asyncio.Event()
        self._may_ask.set()

    @property
    def num_open(self) -> int:
        """Groups under way, and complete ones that have not been taken yet."""
        return len(self._tasks)

    @property
    def groups(self) -> list[SampledGroup]:
        """The same groups, as far as they have been recorded."""
        return list(self._groups.values())

    def add(self, groups: Sequence[SampledGroup]) -> None:
        for group in groups:
            assert group.key not in self._tasks, group.key
            self._groups[group.key] = group
            self._tasks[group.key] = asyncio.ensure_future(self._advance(group.key))

    async def next_complete(self) -> SampledGroup:
        """Wait for a group whose responses have all ended, and take it out.

        Raises:
            EngineError, ReplayError: of the group that failed.
        """
        done, _ = await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        key = min(key for key, task in self._tasks.items() if task in done)
        del self._groups[key]
        return await self._tasks.pop(key)

    async def cut(self, next_iteration: int) -> list[SampledGroup]:
        """End the pieces in flight and record them; requests from then on are of `next_iteration`.

        Returns:
            All groups that have not been taken, as they are on the disk now.
        """
        self._may_ask.clear()
        try:
            pieces = set(self._pieces)
            while pieces:
                await self._pool.abort()
                _, pieces = await asyncio.wait(pieces, timeout=ABORT_SECONDS)
            self.iteration = next_iteration
            await self._journal.start_iteration(next_iteration)
        finally:
            self._may_ask.set()
        return self.groups

    async def drop(self, groups: Sequence[SampledGroup]) -> None:
        """Stop sampling these; they are not under way any more."""
        tasks = [self._tasks.pop(group.key) for group in groups]
        for group, task in zip(groups, tasks, strict=True):
            del self._groups[group.key]
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        await self.drop(self.groups)

    async def _advance(self, key: GroupKey) -> SampledGroup:
        numbers = range(len(self._groups[key].trajectories))
        await asyncio.gather(*(self._respond(key, number) for number in numbers))
        return with_text(self._groups[key], self._decode)

    async def _respond(self, key: GroupKey, number: int) -> None:
        while self._groups[key].trajectories[number].is_open:
            await self._may_ask.wait()
            piece = asyncio.ensure_future(self._sample_piece(key, number))
            self._pieces.add(piece)
            piece.add_done_callback(self._pieces.discard)
            await piece

    async def _sample_piece(self, key: GroupKey, number: int) -> None:
        group = self._groups[key]
        trajectory = group.trajectories[number]
        name = key_of(group, trajectory, self.iteration)
        record = await self._journal.find(name)
        if record is None:
            generation = await self._pool.generate(
                next_request(trajectory, name, self._sampling, run_seed=self._run_seed)
            )
            if generation.finish_reason == "aborted":
                # Cut by us: as if a budget had ended here.
                generation = replace(generation, finish_reason="length")
            if not generation.token_ids:
                return
            record = record_of(name, trajectory, generation, self._sampling, self._decode)
            await self._journal.record(record)
        self.num_sampled_tokens += sum(len(segment.token_ids) for segment in record.segments)
        self._set(key, number, extended(trajectory, record))

    def _set(self, key: GroupKey, number: int, trajectory: Trajectory) -> None:
        group = self._groups[key]
        trajectories = (*group.trajectories[:number], trajectory, *group.trajectories[number + 1 :])
        self._groups[key] = replace(group, trajectories=trajectories)
