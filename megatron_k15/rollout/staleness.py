"""The staleness limit (`rollout.max_staleness`): no token enters training that is of older weights than it allows.

Applied at the end of an iteration's rollout to the groups that are still open: one that would break the limit by
waiting for another iteration ends now or is dropped.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from megatron_k15.config import RolloutConfig
from megatron_k15.types import SampledGroup


class Settled(NamedTuple):
    waiting: list[SampledGroup]
    """Go on in the next iteration."""
    ended: list[SampledGroup]
    """Complete now: what was open is `aborted`."""
    dropped: list[SampledGroup]


def settle(open_groups: Sequence[SampledGroup], config: RolloutConfig, *, iteration: int) -> Settled:
    """Sort the open groups of `iteration` by what the limit makes of them."""
    settled = Settled([], [], [])
    for group in open_groups:
        oldest = group.oldest_version
        limit = config.max_staleness
        if limit is None or oldest is None or iteration + 1 - oldest <= limit:
            settled.waiting.append(group)
        elif config.at_max_staleness == "drop" or not all(trajectory.segments for trajectory in group.trajectories):
            # A response without a token cannot be trained on: it never got its turn.
            settled.dropped.append(group)
        else:
            settled.ended.append(_ended(group))
    return settled


def _ended(group: SampledGroup) -> SampledGroup:
    return replace(
        group,
        trajectories=tuple(
            replace(trajectory, finish_reason="aborted") if trajectory.is_open else trajectory
            for trajectory in group.trajectories
        ),
    )
