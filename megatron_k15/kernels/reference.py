"""What each compiled operator computes, in plain PyTorch: the measure of its tests, its stand-in without a compiler.

Signatures and results are those of `torch.ops.k15.*`. Two things are the kernels' own: `coefficients` of 0 hide what
their row of logits holds, and sums over the tokens of a sequence are fp64.

Legend: N tokens, V this rank's part of the vocabulary, S sequences, R responses, G groups.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def computed_dtype(logits: Tensor) -> torch.dtype:
    """fp32, and fp64 for fp64 logits."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def softmax_statistics(logits_NV: Tensor, targets_N: Tensor, scale: float, entropy: bool) -> Tensor:
    """[3 or 4, N]: max x, Σ e^(x - max), x at the target (0 where another rank has it), Σ e^(x - max) (x - max)."""
    x_NV = logits_NV.to(computed_dtype(logits_NV)) * scale
    num_rows, width = x_NV.shape
    highest_N = x_NV.amax(-1) if width else x_NV.new_full((num_rows,), -torch.inf)
    here_N = (targets_N >= 0) & (targets_N < width)
    rows = here_N.nonzero().squeeze(1)
    at_target_N = x_NV.new_zeros(num_rows)
    at_target_N[rows] = x_NV[rows, targets_N[rows]]
    shift_NV = x_NV.sub_(highest_N.masked_fill(highest_N == -torch.inf, 0).unsqueeze(-1))
    exponentials_NV = shift_NV.exp()
    statistics = [highest_N, exponentials_NV.sum(-1), at_target_N]
    if entropy:
        statistics.append((exponentials_NV * shift_NV.clamp(min=torch.finfo(shift_NV.dtype).min)).sum(-1))
    return torch.stack(statistics)


def logit_gradient(
    logits_NV: Tensor, targets_N: Tensor, scale: float, highest_N: Tensor, sums_N: Tensor, coefficients_N: Tensor
) -> Tensor:
    """[N, V] in the logits' dtype: coefficient · scale · (onehot(target) - e^(x - highest) / sum)."""
    x_NV = logits_NV.to(computed_dtype(logits_NV)) * scale
    slope_N = coefficients_N * scale
    gradient_NV = x_NV.sub_(highest_N.unsqueeze(-1)).exp_().mul_((-slope_N / sums_N).unsqueeze(-1))
    rows = ((targets_N >= 0) & (targets_N < logits_NV.shape[1])).nonzero().squeeze(1)
    gradient_NV[rows, targets_N[rows]] += slope_N[rows]
    return gradient_NV.masked_fill_((coefficients_N == 0).unsqueeze(-1), 0).to(logits_NV.dtype)


def logit_gradient_(
    logits_NV: Tensor, targets_N: Tensor, scale: float, highest_N: Tensor, sums_N: Tensor, coefficients_N: Tensor
) -> None:
    logits_NV.copy_(logit_gradient(logits_NV, targets_N, scale, highest_N, sums_N, coefficients_N))


def sequence_sums(logprobs_N: Tensor, reference_N: Tensor, mask_N: Tensor, bounds: Tensor) -> Tensor:
    """[S] Σ (logprob - reference) over each sequence's tokens in the loss."""
    difference_N = (logprobs_N.double() - reference_N.double()).masked_fill(~mask_N, 0)
    return _sum_by_owner(difference_N, bounds).to(logprobs_N.dtype)


def policy_terms(
    logprobs_N: Tensor,
    behaviour_N: Tensor | None,
    mask_N: Tensor,
    bounds: Tensor,
    sums_S: Tensor,
    advantages_S: Tensor,
    weights_S: Tensor,
    tau: float,
    importance_clip: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """([S] losses, [N] d loss / d logprob, [N] π / π_behaviour or [0])."""
    s, a, w = sums_S.double(), advantages_S.double(), weights_S.double()
    losses_S = -w * (a * s - tau / 2 * s.square())
    coefficients_N = (-w * (a - tau * s)).index_select(0, owners(bounds))
    ratios_N = logprobs_N.new_empty(0)
    if behaviour_N is not None:
        exact_N = (logprobs_N.double() - behaviour_N.double()).masked_fill(~mask_N, 0).exp()
        coefficients_N = coefficients_N * exact_N.clamp(max=importance_clip)
        ratios_N = exact_N.to(logprobs_N.dtype)
    coefficients_N = coefficients_N.masked_fill(~mask_N, 0)
    return losses_S.to(logprobs_N.dtype), coefficients_N.to(logprobs_N.dtype), ratios_N


def group_rewards(
    rewards_R: Tensor,
    correct_R: Tensor,
    lengths_R: Tensor,
    offsets: Tensor,
    length_weight: float,
    baseline: str,
    tau: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """([R] length rewards, [G] baselines, [R] advantages); ragged groups, an empty one has baseline 0."""
    length_rewards_R, advantages_R = torch.empty_like(rewards_R), torch.empty_like(rewards_R)
    baselines_G = rewards_R.new_zeros(len(offsets) - 1)
    for group, (first, last) in enumerate(pairwise(offsets.tolist())):
        if first == last:
            continue
        part = slice(first, last)
        length_rewards_R[part] = _length_rewards(lengths_R[part], correct_R[part]).to(rewards_R.dtype)
        total = rewards_R[part].double() + length_weight * length_rewards_R[part].double()
        if baseline == "mean":
            centre = total.mean()
        else:
            centre = total.max() + tau * ((total - total.max()) / tau).exp().mean().log()
        baselines_G[group] = centre
        advantages_R[part] = total - centre
    return length_rewards_R, baselines_G, advantages_R


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Longest first, each into the fullest pack with room, else into a new one: the packs, as indices."""
    packs: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        fitting = [pack for pack, left in enumerate(room) if left > 0 and left >= lengths[index]]
        if fitting:
            pack = min(fitting, key=lambda pack: (room[pack], pack))
        else:
            pack = len(packs)
            packs.append([])
            room.append(capacity)
        packs[pack].append(index)
        room[pack] -= lengths[index]
    return packs


def owners(bounds: Tensor) -> Tensor:
    """[N] the sequence of each token, from [S + 1] bounds."""
    counts = bounds.diff()
    return torch.arange(counts.numel(), device=bounds.device).repeat_interleave(counts)


def _sum_by_owner(values_N: Tensor, bounds: Tensor) -> Tensor:
    return values_N.new_zeros(bounds.numel() - 1).index_add(0, owners(bounds), values_N)


def _length_rewards(lengths: Tensor, correct: Tensor) -> Tensor:
    shortest, longest = lengths.min(), lengths.max()
    if shortest == longest:
        return torch.zeros(lengths.shape, dtype=torch.float64, device=lengths.device)
    values = 0.5 - (lengths - shortest).double() / (longest - shortest).double()
    return torch.where(correct, values, values.clamp(max=0))
