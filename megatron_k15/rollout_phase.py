"""The rollout phase of one iteration (§2.6.1, §2.6.2): groups go on, complete ones are scored and leave, others wait.

replay.unfinished + new groups → rollout.generate → complete? → rewards.score → training
                                                  └ open → staleness limit → replay.keep
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron_k15.config import Config
from megatron_k15.parts import Parts
from megatron_k15.rollout.generation import generate_groups, with_text
from megatron_k15.rollout.sampling import Sampling
from megatron_k15.rollout.staleness import settle
from megatron_k15.types import Group, SampledGroup


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What the phase gave."""

    groups: tuple[Group, ...]
    """All responses ended; in the order in which their prompts were drawn."""
    num_sampled_tokens: int
    """In this iteration, over all groups."""
    counts: dict[str, float]
    """Groups by what became of them, for the metrics."""


async def roll_out(
    parts: Parts, config: Config, groups: Sequence[SampledGroup], *, iteration: int, on_progress: Callable[[str], None]
) -> Rollout:
    """Take every group one budget further. Rewards are computed group by group, while others still generate."""
    total = sum(len(group.trajectories) for group in groups)
    num_tokens = 0

    def progress(done: int, tokens: int) -> None:
        nonlocal num_tokens
        num_tokens = tokens
        on_progress(f"{done}/{total} responses, {tokens} tokens")

    generated = generate_groups(
        parts.pool,
        groups,
        Sampling.for_training(config.rollout),
        decode=parts.decode,
        run_seed=config.seed,
        iteration=iteration,
        journal=parts.replay.journal,
        on_progress=progress,
    )
    scored: dict[tuple[int, str], Group] = {}
    still_open = []
    async for group in generated:
        if group.is_complete:
            scored[group.key] = await parts.scorer.score(group.prompt, group.trajectories, iteration)
        else:
            still_open.append(group)
    settled = settle(still_open, config.rollout, iteration=iteration)
    for group in (with_text(group, parts.decode) for group in settled.ended):
        scored[group.key] = await parts.scorer.score(group.prompt, group.trajectories, iteration)
    parts.replay.keep(settled.waiting)
    return Rollout(
        # The order in which groups finish is chance; the order of the update must not be.
        groups=tuple(scored[group.key] for group in groups if group.key in scored),
        num_sampled_tokens=num_tokens,
        counts={
            "complete_groups": float(len(scored)),
            "waiting_groups": float(len(settled.waiting)),
            "groups_ended_by_staleness": float(len(settled.ended)),
            "groups_dropped_by_staleness": float(len(settled.dropped)),
        },
    )
