"""Length reward (§2.3.3), baseline and advantages (§2.3.2) of many groups of responses, in one launch.

Legend: R responses, G groups.
"""

from typing import NamedTuple

from torch import Tensor

from megatron_k15.kernels.native import operators


class GroupRewards(NamedTuple):
    length_rewards_R: Tensor
    """λ of §2.3.3, before its weight."""
    baselines_G: Tensor
    """Of reward + length_weight · λ; 0 for an empty group."""
    advantages_R: Tensor


def group_rewards(
    rewards_R: Tensor,
    correct_R: Tensor,
    lengths_R: Tensor,
    offsets: Tensor,
    *,
    length_weight: float = 0.0,
    baseline: str = "mean",
    tau: float = 1.0,
) -> GroupRewards:
    """
    Args:
        rewards_R: fp32 or fp64, without the length reward. correct_R: bool. lengths_R: int64, tokens.
        offsets: int64 [G + 1]: group g is responses offsets[g] to offsets[g + 1].
        baseline: `mean`, or `log_mean_exp`: τ log mean e^(r / τ).

    Raises:
        ValueError, TypeError: a shape, dtype or device is not as above; the message names it.
    """
    found = operators(rewards_R).group_rewards(rewards_R, correct_R, lengths_R, offsets, length_weight, baseline, tau)
    return GroupRewards(*found)
