"""Rows of logits → log π of their targets: what the tensor-parallel ranks exchange, and nothing of width V.

Each rank reads its part of a row once; the maximum, then the sum of exponentials and the target's logit, go around.

Legend: N tokens, V this rank's part of the vocabulary.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group

from megatron_k15.kernels.native import operators


class Rows(NamedTuple):
    """Of the whole vocabulary, alike on every tensor rank. fp32, or fp64 for fp64 logits."""

    highest_N: Tensor
    """max x, x being logit / temperature."""
    sums_N: Tensor
    """Σ e^(x - max)."""
    logprobs_N: Tensor
    """log π of the target, in nats."""
    entropies_N: Tensor
    """In nats; [0] where not asked for."""


def read_rows(logits_NV: Tensor, local_targets_N: Tensor, scale: float, group: str, entropy: bool) -> Rows:
    """
    Args:
        local_targets_N: column of this rank's part; outside of it where another rank holds the target.
        scale: 1 / temperature.
        group: name of the tensor-parallel group; empty where the vocabulary is whole.
    """
    return whole_rows(
        operators(logits_NV).softmax_statistics(logits_NV, local_targets_N, scale, entropy), group, entropy
    )


def whole_rows(statistics: Tensor, group: str, entropy: bool) -> Rows:
    """[3 or 4, N] of this rank's part of the vocabulary (see `reference.softmax_statistics`) → of the whole."""
    highest_N, parts = statistics[0], statistics[1:]
    if group:
        highest_N, parts = _over_ranks(statistics, group)
    sums_N, at_target_N = parts[0], parts[1]
    log_sums_N = sums_N.log()
    logprobs_N = at_target_N - highest_N - log_sums_N
    # H = log Z - Σ p x, with x and Z relative to the maximum.
    entropies_N = log_sums_N - parts[2] / sums_N if entropy else sums_N.new_empty(0)
    return Rows(highest_N, sums_N, logprobs_N, entropies_N)


def merged(left: Tensor, right: Tensor) -> Tensor:
    """Statistics of two parts of the same rows."""
    highest_N = torch.maximum(left[0], right[0])
    return torch.cat([highest_N.unsqueeze(0), _relative_to(highest_N, left) + _relative_to(highest_N, right)])


def all_reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType, group: str) -> None:
    """In place, over the group of that name; nothing where it is empty."""
    if group:
        dist.all_reduce(tensor, operation, group=_resolve_process_group(group))


def group_name(group: dist.ProcessGroup | None) -> str:
    """Empty for None and for a group of one: operators take strings, not groups."""
    return group.group_name if group is not None and group.size() > 1 else ""


def _over_ranks(statistics: Tensor, group: str) -> tuple[Tensor, Tensor]:
    """The maximum over all ranks, and sums relative to it."""
    highest_N = statistics[0].clone()
    all_reduce(highest_N, dist.ReduceOp.MAX, group)
    together = _relative_to(highest_N, statistics)
    all_reduce(together, dist.ReduceOp.SUM, group)
    return highest_N, together


def _relative_to(highest_N: Tensor, statistics: Tensor) -> Tensor:
    """The statistics behind the maximum, as they are relative to another one that is at least it."""
    own_N, sums_N, at_target_N, *weighted = statistics
    # A part that saw nothing but -inf (or has no column) adds nothing, rather than -inf - -inf.
    shift_N = torch.where(sums_N == 0, 0, own_N - highest_N).clamp(min=torch.finfo(own_N.dtype).min)
    factor_N = shift_N.exp()
    return torch.stack([sums_N * factor_N, at_target_N, *(factor_N * (part + shift_N * sums_N) for part in weighted)])
