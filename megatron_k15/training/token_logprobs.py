"""log π of target tokens from logits whose vocabulary is split over the tensor-parallel ranks.

One [N, V] buffer in all: the logits become, in place, their exponentials and later their gradient.

Legend: N tokens, V this rank's part of the vocabulary, H hidden.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from megatron_k15.kernels.linear_loss import linear_logprobs
from megatron_k15.training.micro_batch import MicroBatch
from megatron_k15.training.objective import Head


def head_logprobs(batch: MicroBatch, head: Head, *, fused: bool) -> Tensor:
    """[N] log π of the batch's targets, without a gradient."""
    options = head_options(batch, head)
    if fused:
        return linear_logprobs(head.hidden_RH, head.weight_VH, batch.targets_N, tensor_group=head.group, **options)
    with torch.no_grad():
        return token_logprobs(head.hidden_RH, head.weight_VH, batch.targets_N, group=head.group, **options)


def head_options(batch: MicroBatch, head: Head) -> dict[str, Any]:
    return {"vocabulary_start": head.vocabulary_start, "temperature": batch.temperature}


def token_logprobs(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    targets_N: Tensor,
    *,
    vocabulary_start: int = 0,
    group: dist.ProcessGroup | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """[N] ln softmax(hidden · weightᵀ / temperature)[target], in nats, at least fp32.

    Args:
        vocabulary_start: token id of `weight_VH`'s first row.
        group: the tensor-parallel group; None where the vocabulary is whole.
    """
    logits_NV = torch.nn.functional.linear(hidden_NH, weight_VH)
    return _TokenLogprobs.apply(logits_NV, targets_N - vocabulary_start, group, temperature)


class _TokenLogprobs(Function):
    """d logp_t / d logits = (onehot(target) - softmax) / temperature."""

    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, local_targets_N: Tensor, group: dist.ProcessGroup | None, temperature: float
    ) -> Tensor:
        dtype = logits_NV.dtype
        # The logits are ours alone (token_logprobs made them): their memory is used again.
        exponentials = logits_NV if dtype in (torch.float32, torch.float64) else logits_NV.float()
        if temperature != 1.0:
            exponentials.div_(temperature)
        num_rows, width = exponentials.shape
        highest = exponentials.amax(-1) if width else exponentials.new_full((num_rows,), -torch.inf)
        _reduce(highest, dist.ReduceOp.MAX, group)
        exponentials.sub_(highest.unsqueeze(-1))
        here = (local_targets_N >= 0) & (local_targets_N < width)
        rows = here.nonzero().squeeze(1)
        columns = local_targets_N[rows]
        logprobs = exponentials.new_zeros(num_rows)
        logprobs[rows] = exponentials[rows, columns]
        exponentials.exp_()
        sums = exponentials.sum(-1)
        _reduce(sums, dist.ReduceOp.SUM, group)
        _reduce(logprobs, dist.ReduceOp.SUM, group)
        ctx.exponentials, ctx.dtype, ctx.temperature = exponentials, dtype, temperature
        ctx.save_for_backward(sums, rows, columns)
        return logprobs - sums.log()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_N,) = gradients
        sums, rows, columns = ctx.saved_tensors
        # Taken away: a second backward pass must fail rather than use what this one overwrites.
        gradient_NV, ctx.exponentials = ctx.exponentials, None
        gradient_N = gradient_N / ctx.temperature
        gradient_NV.mul_((-gradient_N / sums).unsqueeze(-1))
        gradient_NV[rows, columns] += gradient_N[rows]
        return gradient_NV.to(ctx.dtype), None, None, None


def _reduce(tensor: Tensor, operation: Any, group: dist.ProcessGroup | None) -> None:
    if group is not None and group.size() > 1:
        dist.all_reduce(tensor, operation, group=group)
