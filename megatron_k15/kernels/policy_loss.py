"""The loss of online mirror descent (§2.3.2) over logits: read once forward, read and written once backward.

    s_j  = Σ_t (log π_θ - log π_i)                  over the tokens of response j in the loss
    loss = -Σ_j w_j [a_j s_j - (τ/2) s_j²]

`policy_loss` is a registered operator with autograd: it works under torch.compile and gradcheck. `in_place=True` is the
trainer's: the backward pass writes the gradient over the logits, and a second one fails.

Legend: N tokens, V this rank's part of the vocabulary, S sequences.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from megatron_k15.kernels.native import operators
from megatron_k15.kernels.reference import computed_dtype
from megatron_k15.kernels.rows import Rows, all_reduce, group_name, read_rows


class PolicyLoss(NamedTuple):
    """Only `loss` is differentiable. fp32, or fp64 for fp64 logits."""

    loss: Tensor
    """Scalar, alike on every rank of both groups."""
    logprobs_N: Tensor
    """log π_θ of every token, in the loss or not."""
    log_ratios_S: Tensor
    """s_j."""
    entropies_N: Tensor
    """In nats; [0] where not asked for."""
    ratios_N: Tensor
    """π_θ / π_behaviour, not truncated; [0] without behaviour logprobs."""


class Sequences(NamedTuple):
    """What the loss knows of the tokens and sequences beside the logits."""

    reference_N: Tensor | None
    """log π_i; None where π_θ still is π_i: then s = 0, and only its gradient counts."""
    behaviour_N: Tensor | None
    """log π_behaviour. Given, each token's gradient is weighted by min(π_θ / π_behaviour, importance_clip)."""
    mask_N: Tensor
    """bool: in the loss."""
    bounds: Tensor
    """int64 [S + 1]: sequence j is tokens bounds[j] to bounds[j + 1]."""
    advantages_S: Tensor
    weights_S: Tensor

    def to(self, dtype: torch.dtype) -> "Sequences":
        """Its numbers in `dtype`."""
        reference_N, behaviour_N = (
            value if value is None else value.to(dtype) for value in (self.reference_N, self.behaviour_N)
        )
        advantages_S, weights_S = self.advantages_S.to(dtype), self.weights_S.to(dtype)
        return Sequences(reference_N, behaviour_N, self.mask_N, self.bounds, advantages_S, weights_S)


def policy_loss(
    logits_NV: Tensor,
    targets_N: Tensor,
    sequences: Sequences,
    *,
    tau: float,
    importance_clip: float = 2.0,
    temperature: float = 1.0,
    vocabulary_start: int = 0,
    tensor_group: dist.ProcessGroup | None = None,
    sequence_group: dist.ProcessGroup | None = None,
    entropy: bool = False,
    in_place: bool = False,
) -> PolicyLoss:
    """
    Args:
        logits_NV: bf16, fp16, fp32 or fp64; this tensor rank's part of the vocabulary.
        targets_N: int64 token ids.
        vocabulary_start: token id of the first column.
        tensor_group: over which the vocabulary is split.
        sequence_group: over which the tokens of each sequence are split: s_j is summed over it, and each rank has the
            gradient of its own tokens.
        in_place: the backward pass overwrites the logits. Nothing else may need them.

    Raises:
        ValueError, TypeError: a shape, dtype or device is not as above; the message names it.
    """
    groups = group_name(tensor_group), group_name(sequence_group)
    given = sequences.to(computed_dtype(logits_NV))
    local_targets_N = targets_N - vocabulary_start
    settings = (tau, importance_clip, 1.0 / temperature, *groups, entropy)
    if in_place:
        return PolicyLoss(*_InPlace.apply(logits_NV, local_targets_N, given, settings))
    return PolicyLoss(*_policy_loss(logits_NV, local_targets_N, *given, *settings)[:5])


@torch.library.custom_op("megatron_k15::policy_loss", mutates_args=())
def _policy_loss(
    logits_NV: Tensor,
    local_targets_N: Tensor,
    reference_N: Tensor | None,
    behaviour_N: Tensor | None,
    mask_N: Tensor,
    bounds: Tensor,
    advantages_S: Tensor,
    weights_S: Tensor,
    tau: float,
    importance_clip: float,
    scale: float,
    tensor_group: str,
    sequence_group: str,
    entropy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """PolicyLoss, then what the backward pass needs: highest_N, sums_N, coefficients_N."""
    rows = read_rows(logits_NV, local_targets_N, scale, tensor_group, entropy)
    given = Sequences(reference_N, behaviour_N, mask_N, bounds, advantages_S, weights_S)
    terms = policy_terms(rows.logprobs_N, given, tau, importance_clip, sequence_group)
    return _results(rows, terms)


class Terms(NamedTuple):
    log_ratios_S: Tensor
    losses_S: Tensor
    coefficients_N: Tensor
    """d loss / d log π of each token, 0 outside the loss."""
    ratios_N: Tensor


def policy_terms(
    logprobs_N: Tensor, given: Sequences, tau: float, importance_clip: float, sequence_group: str
) -> Terms:
    """From logprobs to the loss and its derivative in each of them."""
    kernels = operators(logprobs_N)
    reference_N = logprobs_N if given.reference_N is None else given.reference_N
    sums_S = kernels.sequence_sums(logprobs_N, reference_N, given.mask_N, given.bounds)
    all_reduce(sums_S, dist.ReduceOp.SUM, sequence_group)
    _, behaviour_N, mask_N, bounds, advantages_S, weights_S = given
    losses_S, coefficients_N, ratios_N = kernels.policy_terms(
        logprobs_N, behaviour_N, mask_N, bounds, sums_S, advantages_S, weights_S, tau, importance_clip
    )
    return Terms(sums_S, losses_S, coefficients_N, ratios_N)


def _results(rows: Rows, terms: Terms) -> tuple[Tensor, ...]:
    shown = (terms.losses_S.sum(), rows.logprobs_N, terms.log_ratios_S, rows.entropies_N, terms.ratios_N)
    return (*shown, rows.highest_N.clone(), rows.sums_N.clone(), terms.coefficients_N)


@_policy_loss.register_fake
def _(logits_NV, local_targets_N, reference_N, behaviour_N, mask_N, bounds, *rest):
    dtype, num_rows = computed_dtype(logits_NV), logits_NV.shape[0]

    def rows(count=num_rows):
        return logits_NV.new_empty(count, dtype=dtype)

    entropy = rest[-1]
    entropies, ratios = rows() if entropy else rows(0), rows(0) if behaviour_N is None else rows()
    return rows(1).sum(), rows(), rows(bounds.shape[0] - 1), entropies, ratios, rows(), rows(), rows()


def _set_up(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits_NV, local_targets_N, *_ = inputs
    ctx.scale = inputs[10]
    ctx.save_for_backward(logits_NV, local_targets_N, *output[5:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, loss_gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    logits_NV, local_targets_N, highest_N, sums_N, coefficients_N = ctx.saved_tensors
    gradient_NV = operators(logits_NV).logit_gradient(
        logits_NV, local_targets_N, ctx.scale, highest_N, sums_N, coefficients_N * loss_gradient
    )
    return (gradient_NV, *[None] * 13)


_policy_loss.register_autograd(_backward, setup_context=_set_up)


class _InPlace(Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, local_targets_N: Tensor, given: Sequences, settings: tuple) -> Any:
        tau, importance_clip, scale, tensor_group, sequence_group, entropy = settings
        rows = read_rows(logits_NV, local_targets_N, scale, tensor_group, entropy)
        terms = policy_terms(rows.logprobs_N, given, tau, importance_clip, sequence_group)
        results = _results(rows, terms)
        ctx.logits, ctx.scale = logits_NV, scale
        ctx.save_for_backward(local_targets_N, *results[5:])
        ctx.mark_non_differentiable(*results[1:5])
        return results[:5]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        local_targets_N, highest_N, sums_N, coefficients_N = ctx.saved_tensors
        # Taken away: a second backward pass must fail rather than use what this one overwrites.
        gradient_NV, ctx.logits = ctx.logits, None
        operators(gradient_NV).logit_gradient_(
            gradient_NV, local_targets_N, ctx.scale, highest_N, sums_N, coefficients_N * gradients[0]
        )
        return gradient_NV, None, None, None
