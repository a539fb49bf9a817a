"""The rollout phase of an iteration (§2.6.1, §2.6.2): groups go on, complete ones are scored and leave, others wait.

    replay.unfinished + new groups → rollout.generate → complete? → rewards.score → training
                                                      └ open → staleness limit → replay.keep

`RolloutPhase` ends when every group has had its budget; between two of them vLLM is idle. `InFlightPhase` ends when
enough groups are complete; the others are sampled on while the trainer trains.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from megatron_k15.config import Config
from megatron_k15.parts import Parts
from megatron_k15.rollout.generation import generate_groups, with_text
from megatron_k15.rollout.sampling import Sampling
from megatron_k15.rollout.segments import new_groups
from megatron_k15.rollout.staleness import Settled, settle
from megatron_k15.rollout.stream import ResponseStream
from megatron_k15.types import Group, Prompt, SampledGroup

OnProgress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What the phase gave."""

    groups: tuple[Group, ...]
    """All responses ended; in the order in which their prompts were drawn."""
    num_sampled_tokens: int
    """In this iteration, over all groups."""
    counts: dict[str, float]
    """Groups by what became of them, for the metrics."""


class Phase(Protocol):
    """What the master asks for. All coroutines run on the event loop."""

    @property
    def num_new_prompts(self) -> int:
        """How many prompts to draw for the next iteration."""
        ...

    async def run(self, prompts: Sequence[Prompt], iteration: int, on_progress: OnProgress) -> Rollout: ...

    async def rest(self, next_iteration: int) -> None:
        """Before a checkpoint: have everything that is under way in the replay buffer."""
        ...

    async def close(self) -> None: ...


def rollout_phase(parts: Parts, config: Config) -> Phase:
    return InFlightPhase(parts, config) if config.rollout.in_flight_updates else RolloutPhase(parts, config)


class RolloutPhase:
    """Every group goes one budget further; unfinished ones wait in the replay buffer."""

    def __init__(self, parts: Parts, config: Config) -> None:
        self._parts = parts
        self._config = config

    @property
    def num_new_prompts(self) -> int:
        config = self._config.rollout
        if config.max_open_groups is None:
            return config.prompts_per_iteration
        return max(0, min(config.prompts_per_iteration, config.max_open_groups - self._parts.replay.num_open))

    async def run(self, prompts: Sequence[Prompt], iteration: int, on_progress: OnProgress) -> Rollout:
        """Rewards are computed group by group, while others still generate."""
        parts, config = self._parts, self._config.rollout
        groups = parts.replay.unfinished() + new_groups(prompts, config.responses_per_prompt, iteration)
        total = sum(len(group.trajectories) for group in groups)
        num_tokens = 0

        def progress(done: int, tokens: int) -> None:
            nonlocal num_tokens
            num_tokens = tokens
            on_progress(f"{done}/{total} responses, {tokens} tokens")

        await parts.replay.journal.start_iteration(iteration)
        scoring = Scoring(parts, iteration)
        still_open = []
        async for group in generate_groups(
            parts.pool,
            groups,
            Sampling.for_training(config),
            decode=parts.decode,
            run_seed=self._config.seed,
            iteration=iteration,
            journal=parts.replay.journal,
            on_progress=progress,
        ):
            if group.is_complete:
                await scoring.add(group)
            else:
                still_open.append(group)
        settled = settle(still_open, config, iteration=iteration)
        for group in settled.ended:
            await scoring.add(with_text(group, parts.decode))
        parts.replay.keep(settled.waiting)
        order = {group.key: index for index, group in enumerate(groups)}
        return scoring.rollout(num_tokens, settled, key=lambda key: order[key])

    async def rest(self, next_iteration: int) -> None:
        return None

    async def close(self) -> None:
        return None


class InFlightPhase:
    """Groups are sampled without a pause; an iteration takes those that are complete first."""

    def __init__(self, parts: Parts, config: Config) -> None:
        self._parts = parts
        self._config = config
        self._stream: ResponseStream | None = None

    @property
    def num_new_prompts(self) -> int:
        under_way = self._parts.replay.num_open if self._stream is None else self._stream.num_open
        return max(0, self._config.rollout.most_new_prompts - under_way)

    async def run(self, prompts: Sequence[Prompt], iteration: int, on_progress: OnProgress) -> Rollout:
        """Up to `prompts_per_iteration` groups, and those that must not become any older."""
        parts, config = self._parts, self._config.rollout
        await parts.replay.journal.start_iteration(iteration)
        stream = self._open_stream(iteration)
        stream.add(new_groups(prompts, config.responses_per_prompt, iteration))
        tokens_before = stream.num_sampled_tokens
        scoring = Scoring(parts, iteration)
        while scoring.num_groups < config.prompts_per_iteration:
            await scoring.add(await stream.next_complete())
            on_progress(f"{scoring.num_groups}/{config.prompts_per_iteration} groups, {stream.num_open} under way")
        settled = Settled(waiting=[], ended=[], dropped=[])
        if config.max_staleness is not None:
            settled = settle(await stream.cut(iteration), config, iteration=iteration)
            await stream.drop([*settled.ended, *settled.dropped])
            for group in settled.ended:
                await scoring.add(with_text(group, parts.decode))
        settled = settled._replace(waiting=stream.groups)
        return scoring.rollout(stream.num_sampled_tokens - tokens_before, settled, key=lambda key: key)

    async def rest(self, next_iteration: int) -> None:
        if self._stream is not None:
            self._parts.replay.keep(await self._stream.cut(next_iteration))

    async def close(self) -> None:
        if self._stream is not None:
            await self._stream.close()

    def _open_stream(self, iteration: int) -> ResponseStream:
        if self._stream is None:
            parts = self._parts
            self._stream = ResponseStream(
                parts.pool,
                Sampling.for_training(self._config.rollout),
                decode=parts.decode,
                run_seed=self._config.seed,
                journal=parts.replay.journal,
            )
            self._stream.iteration = iteration
            self._stream.add(parts.replay.unfinished())
        self._stream.iteration = iteration
        return self._stream


class Scoring:
    """The groups of one iteration that are complete, as they are scored."""

    def __init__(self, parts: Parts, iteration: int) -> None:
        self._parts = parts
        self._iteration = iteration
        self._scored: dict[tuple[int, str], Group] = {}

    @property
    def num_groups(self) -> int:
        return len(self._scored)

    async def add(self, group: SampledGroup) -> None:
        self._scored[group.key] = await self._parts.scorer.score(group.prompt, group.trajectories, self._iteration)

    def rollout(self, num_sampled_tokens: int, settled: Settled, *, key: Callable[[tuple[int, str]], Any]) -> Rollout:
        """Args:
        key: sorts the groups' names. The order in which groups finish is chance; that of the update must not be.
        """
        return Rollout(
            groups=tuple(self._scored[name] for name in sorted(self._scored, key=key)),
            num_sampled_tokens=num_sampled_tokens,
            counts={
                "complete_groups": float(len(self._scored)),
                "waiting_groups": float(len(settled.waiting)),
                "groups_ended_by_staleness": float(len(settled.ended)),
                "groups_dropped_by_staleness": float(len(settled.dropped)),
            },
        )
