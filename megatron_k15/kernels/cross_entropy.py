"""Cross entropy (SFT) over logits, with the kernels of the policy loss: loss = -Σ_n w_n log π_n.

`linear_loss.linear_cross_entropy` starts from hidden states instead and holds no logits.

Legend: N tokens, V this rank's part of the vocabulary.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_k15.kernels.native import operators
from megatron_k15.kernels.reference import computed_dtype
from megatron_k15.kernels.rows import group_name, read_rows


def cross_entropy(
    logits_NV: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    *,
    vocabulary_start: int = 0,
    tensor_group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """(loss, [N] log π of the targets); only the loss is differentiable.

    Args:
        weights_N: each token's share in the loss: 0 outside of it, 1 / count for a mean.
    """
    weights_N = weights_N.to(computed_dtype(logits_NV))
    found = _cross_entropy(logits_NV, targets_N - vocabulary_start, weights_N, group_name(tensor_group))
    return found[0], found[1]


@torch.library.custom_op("megatron_k15::cross_entropy", mutates_args=())
def _cross_entropy(
    logits_NV: Tensor, local_targets_N: Tensor, weights_N: Tensor, tensor_group: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, logprobs, then what the backward pass needs: highest_N, sums_N."""
    rows = read_rows(logits_NV, local_targets_N, 1.0, tensor_group, False)
    loss = -(weights_N * rows.logprobs_N).masked_fill(weights_N == 0, 0).sum()
    return loss, rows.logprobs_N, rows.highest_N.clone(), rows.sums_N.clone()


@_cross_entropy.register_fake
def _(logits_NV, local_targets_N, weights_N, tensor_group):
    return weights_N.new_empty(()), *(torch.empty_like(weights_N) for _ in range(3))


def _set_up(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits_NV, local_targets_N, weights_N, _ = inputs
    ctx.save_for_backward(logits_NV, local_targets_N, weights_N, *output[2:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, loss_gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    logits_NV, local_targets_N, weights_N, highest_N, sums_N = ctx.saved_tensors
    gradient_NV = operators(logits_NV).logit_gradient(
        logits_NV, local_targets_N, 1.0, highest_N, sums_N, -weights_N * loss_gradient
    )
    return gradient_NV, None, None, None


_cross_entropy.register_autograd(_backward, setup_context=_set_up)
