"""Scored groups → training sequences with advantages (§2.3.2).

For each problem a_j = r_j - baseline, the baseline being the mean reward or τ log mean exp(r / τ): for all problems of
a step in one launch of the group kernel (fp64), or one by one with `train.kernels=reference`. Every sequence carries
its share 1 / (k · problems) of its optimizer step's loss, so that gradients are plain sums whatever the split over
ranks and micro-batches.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from statistics import fmean

import torch

from megatron_k15.config import TrainConfig
from megatron_k15.kernels.groups import group_rewards
from megatron_k15.types import Group, TrainingSequence, Trajectory


def baseline(rewards: Sequence[float], config: TrainConfig) -> float:
    """r̄, or the estimate of τ log Z from the k samples, computed without overflow."""
    if config.baseline == "mean":
        return fmean(rewards)
    highest = max(rewards)
    return highest + config.tau * math.log(fmean(math.exp((reward - highest) / config.tau) for reward in rewards))


def training_sequences(
    groups: Sequence[Group], config: TrainConfig, *, version: int
) -> tuple[list[list[TrainingSequence]], dict[str, float]]:
    """One list of sequences per optimizer step, and how many groups had equal rewards or were dropped for it.

    The steps get equally many groups where the number of groups allows it; a step without groups is left out. So is a
    response without a token in the loss; its reward still counts in its group's baseline.

    Args:
        version: of the present weights: `train.loss_segments=current` leaves other versions' tokens out of the loss.
    """
    equal = [group for group in groups if len({score.reward for score in group.scores}) == 1]
    kept = list(groups)
    if config.zero_variance_groups == "drop":
        kept = [group for group in groups if group not in equal]
    counts = {
        "zero_variance_groups": float(len(equal)),
        "dropped_groups": float(len(groups) - len(kept)),
    }
    only = version if config.loss_segments == "current" else None
    bounds = [len(kept) * step // config.steps_per_iteration for step in range(config.steps_per_iteration + 1)]
    steps = [kept[start:end] for start, end in pairwise(bounds)]
    found = [sequences for step in steps if (sequences := _of_step(step, config, only))]
    counts["num_sequences_left_out"] = float(
        sum(len(group.trajectories) for group in kept) - sum(len(sequences) for sequences in found)
    )
    return found, counts


def _of_step(groups: Sequence[Group], config: TrainConfig, only: int | None) -> list[TrainingSequence]:
    advantages = _fused_advantages(groups, config) if config.kernels == "fused" else _advantages(groups, config)
    made = (
        training_sequence(
            trajectory,
            advantage=advantage if config.negative_gradients else max(0.0, advantage),
            weight=1.0 / (len(group.trajectories) * len(groups)),
            only=only,
        )
        for group, of_group in zip(groups, advantages, strict=True)
        for trajectory, advantage in zip(group.trajectories, of_group, strict=True)
    )
    return [sequence for sequence in made if True in sequence.loss_mask]


def _advantages(groups: Sequence[Group], config: TrainConfig) -> list[list[float]]:
    rewards = [[score.reward for score in group.scores] for group in groups]
    return [[reward - baseline(of_group, config) for reward in of_group] for of_group in rewards]


def _fused_advantages(groups: Sequence[Group], config: TrainConfig) -> list[list[float]]:
    """The length reward is in the rewards already, as one of their terms: here it gets the weight 0."""
    rewards = torch.tensor([score.reward for group in groups for score in group.scores], dtype=torch.float64)
    sizes = [len(group.scores) for group in groups]
    found = group_rewards(
        rewards,
        torch.zeros(len(rewards), dtype=torch.bool),
        torch.zeros(len(rewards), dtype=torch.int64),
        torch.tensor([0, *accumulate(sizes)]),
        baseline=config.baseline,
        tau=config.tau,
    )
    return [part.tolist() for part in found.advantages_R.split(sizes)]


def training_sequence(
    trajectory: Trajectory, *, advantage: float, weight: float, only: int | None = None
) -> TrainingSequence:
    """Prompt and response end to end; the loss sees the response tokens that its segments' masks let through.

    Args:
        only: the weight version whose tokens are in the loss; None for all.
    """
    num_prompt = len(trajectory.prompt_token_ids)
    mask = trajectory.response_loss_mask if only is None else _mask_of_version(trajectory, only)
    behaviour = (value if seen else 0.0 for value, seen in zip(trajectory.response_logprobs, mask, strict=True))
    return TrainingSequence(
        token_ids=trajectory.prompt_token_ids + trajectory.response_token_ids,
        loss_mask=(False,) * num_prompt + mask,
        behaviour_logprobs=(0.0,) * num_prompt + tuple(behaviour),
        advantage=advantage,
        weight=weight,
    )


def _mask_of_version(trajectory: Trajectory, version: int) -> tuple[bool, ...]:
    sampled_by = (
        span.version
        for segment in trajectory.segments
        for span in segment.versions
        for _ in range(span.start, span.end)
    )
    return tuple(seen and by == version for seen, by in zip(trajectory.response_loss_mask, sampled_by, strict=True))
