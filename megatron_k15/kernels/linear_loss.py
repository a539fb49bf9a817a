"""The policy loss and cross entropy from hidden states and the output weight (`head.py` says how).

Each in two forms: the registered operator (functional, for torch.compile and gradcheck), and with `in_place=True` the
trainer's, whose gradients are scaled in place and handed out without a copy.

Legend: N tokens, V this rank's part of the vocabulary, H hidden, S sequences.
"""

from bisect import bisect_left, bisect_right
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_k15.kernels.head import HandOut, Head, Plan, walk
from megatron_k15.kernels.policy_loss import PolicyLoss, Sequences, Terms, policy_terms
from megatron_k15.kernels.reference import computed_dtype
from megatron_k15.kernels.rows import group_name
from megatron_k15.kernels.spans import Span, even_spans, single_span_blocks, whole_sequence_blocks


def linear_policy_loss(
    hidden_NH: Tensor,
    weight_VH: Tensor,
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
    chunk_bytes: int | None = None,
) -> PolicyLoss:
    """`policy_loss` of hidden · weightᵀ. Leave tokens outside the loss out beforehand to save their products.

    Args:
        chunk_bytes: of logits held at a time. None: `head.CHUNK_BYTES`.

    Raises:
        ValueError, TypeError: a shape, dtype or device is not as `policy_loss` says; the message names it.
    """
    given = sequences.to(computed_dtype(hidden_NH))
    groups = group_name(tensor_group), group_name(sequence_group)
    settings = (tau, importance_clip, 1.0 / temperature, *groups, entropy, chunk_bytes)
    inputs: tuple[Any, ...] = (hidden_NH, weight_VH, targets_N - vocabulary_start, *given, *settings)
    if in_place:
        return PolicyLoss(*HandOut.apply(hidden_NH, weight_VH, lambda *wanted: _run_policy(*inputs, *wanted)))
    wanted = [torch.is_grad_enabled() and value.requires_grad for value in (hidden_NH, weight_VH)]
    return PolicyLoss(*_linear_policy_loss(*inputs, *wanted)[:5])


@torch.no_grad()
def linear_logprobs(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    targets_N: Tensor,
    *,
    temperature: float = 1.0,
    vocabulary_start: int = 0,
    tensor_group: dist.ProcessGroup | None = None,
    chunk_bytes: int | None = None,
) -> Tensor:
    """[N] log π of the targets, fp32 (fp64 of fp64 hidden states); one matrix product, no gradient."""
    group = group_name(tensor_group)
    head = Head(hidden_NH, weight_VH, targets_N - vocabulary_start, 1.0 / temperature, group, False, False, False)
    plan = Plan.of(head, chunk_bytes)
    blocks = single_span_blocks(len(hidden_NH), plan.max_rows)
    return walk(head, plan, blocks, lambda _, logprobs: logprobs).logprobs_N


class CrossEntropy(NamedTuple):
    """Only `loss` is differentiable. fp32, or fp64 for fp64 hidden states."""

    loss: Tensor
    """-Σ_n w_n log π_n."""
    logprobs_N: Tensor


def linear_cross_entropy(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    *,
    vocabulary_start: int = 0,
    tensor_group: dist.ProcessGroup | None = None,
    in_place: bool = False,
    chunk_bytes: int | None = None,
) -> CrossEntropy:
    """
    Args:
        weights_N: each token's share in the loss: 0 outside of it, 1 / count for a mean.
    """
    weights_N = weights_N.to(computed_dtype(hidden_NH))
    inputs: tuple[Any, ...] = (
        hidden_NH,
        weight_VH,
        targets_N - vocabulary_start,
        weights_N,
        group_name(tensor_group),
        chunk_bytes,
    )
    if in_place:
        return CrossEntropy(*HandOut.apply(hidden_NH, weight_VH, lambda *wanted: _run_cross_entropy(*inputs, *wanted)))
    wanted = [torch.is_grad_enabled() and value.requires_grad for value in (hidden_NH, weight_VH)]
    return CrossEntropy(*_linear_cross_entropy(*inputs, *wanted)[:2])


def _run_policy(
    hidden_NH: Tensor,
    weight_VH: Tensor,
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
    chunk_bytes: int | None,
    for_hidden: bool,
    for_weight: bool,
) -> tuple[Tensor, ...]:
    """PolicyLoss, then the gradients of hidden states and weight ([0] where not wanted)."""
    given = Sequences(reference_N, behaviour_N, mask_N, bounds, advantages_S, weights_S)
    head = Head(hidden_NH, weight_VH, local_targets_N, scale, tensor_group, entropy, for_hidden, for_weight)
    host_bounds = bounds.tolist()
    plan = Plan.of(head, chunk_bytes)
    blocks = _policy_blocks(given, host_bounds, plan.max_rows, split_over_ranks=bool(sequence_group))
    collected = _Collected(given, host_bounds)

    def coefficients(span: Span, logprobs: Tensor) -> Tensor:
        first, last = collected.sequences_of(span)
        terms = policy_terms(logprobs, _part(given, span, first, last), tau, importance_clip, sequence_group)
        collected.take(first, last, terms)
        return terms.coefficients_N

    walked = walk(head, plan, blocks, coefficients)
    shown = (collected.losses_S.sum(), walked.logprobs_N, collected.log_ratios_S, walked.entropies_N)
    return (*shown, collected.ratios(), walked.hidden_gradient_NH, walked.weight_gradient_VH)


def _policy_blocks(
    given: Sequences, host_bounds: list[int], max_rows: int, *, split_over_ranks: bool
) -> list[list[Span]]:
    num_rows = host_bounds[-1]
    if split_over_ranks:
        # One exchange of sums for all tokens, as every rank's rows differ; also on a rank without any.
        return [even_spans(0, num_rows, max_rows) or [(0, 0)]]
    if given.reference_N is None:
        # Every s is 0: a token's coefficient does not wait for the other tokens of its sequence.
        return single_span_blocks(num_rows, max_rows)
    return whole_sequence_blocks(host_bounds, max_rows)


def _part(given: Sequences, span: Span, first: int, last: int) -> Sequences:
    """Of sequences [first, last), what lies in the span."""
    start, end = span

    def rows(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[start:end]

    return Sequences(
        rows(given.reference_N),
        rows(given.behaviour_N),
        given.mask_N[start:end],
        given.bounds[first : last + 1].clamp(start, end) - start,
        given.advantages_S[first:last],
        given.weights_S[first:last],
    )


class _Collected:
    """What the blocks find out about the sequences. Where a block holds a part of one only, that adds 0."""

    def __init__(self, given: Sequences, host_bounds: list[int]) -> None:
        self._host_bounds = host_bounds
        self._ratios: list[Tensor] = []
        self.log_ratios_S = torch.zeros_like(given.advantages_S)
        self.losses_S = torch.zeros_like(given.advantages_S)

    def sequences_of(self, span: Span) -> Span:
        """[first, last) of the sequences with a token in the span; all of them for all rows."""
        start, end = span
        bounds = self._host_bounds
        if end - start == bounds[-1]:
            return 0, len(bounds) - 1
        return bisect_right(bounds, start) - 1, bisect_left(bounds, end)

    def take(self, first: int, last: int, terms: Terms) -> None:
        self.log_ratios_S[first:last] += terms.log_ratios_S
        self.losses_S[first:last] += terms.losses_S
        self._ratios.append(terms.ratios_N)

    def ratios(self) -> Tensor:
        return torch.cat(self._ratios) if self._ratios else self.losses_S.new_empty(0)


def _run_cross_entropy(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    local_targets_N: Tensor,
    weights_N: Tensor,
    tensor_group: str,
    chunk_bytes: int | None,
    for_hidden: bool,
    for_weight: bool,
) -> tuple[Tensor, ...]:
    """CrossEntropy, then the gradients of hidden states and weight ([0] where not wanted)."""
    head = Head(hidden_NH, weight_VH, local_targets_N, 1.0, tensor_group, False, for_hidden, for_weight)
    plan = Plan.of(head, chunk_bytes)
    blocks = single_span_blocks(len(hidden_NH), plan.max_rows)
    walked = walk(head, plan, blocks, lambda span, _: -weights_N[span[0] : span[1]])
    loss = -(weights_N * walked.logprobs_N).masked_fill(weights_N == 0, 0).sum()
    return loss, walked.logprobs_N, walked.hidden_gradient_NH, walked.weight_gradient_VH


_SCHEMA_POLICY = (
    "(Tensor hidden, Tensor weight, Tensor local_targets, Tensor? reference, Tensor? behaviour, Tensor mask, "
    "Tensor bounds, Tensor advantages, Tensor weights, float tau, float importance_clip, float scale, "
    "str tensor_group, str sequence_group, bool entropy, int? chunk_bytes, bool for_hidden, bool for_weight) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_linear_policy_loss = torch.library.custom_op(
    "megatron_k15::linear_policy_loss", _run_policy, mutates_args=(), schema=_SCHEMA_POLICY
)
_SCHEMA_CROSS_ENTROPY = (
    "(Tensor hidden, Tensor weight, Tensor local_targets, Tensor weights, str tensor_group, int? chunk_bytes, "
    "bool for_hidden, bool for_weight) -> (Tensor, Tensor, Tensor, Tensor)"
)
_linear_cross_entropy = torch.library.custom_op(
    "megatron_k15::linear_cross_entropy", _run_cross_entropy, mutates_args=(), schema=_SCHEMA_CROSS_ENTROPY
)


@_linear_policy_loss.register_fake
def _(hidden_NH, weight_VH, local_targets_N, reference_N, behaviour_N, mask_N, bounds, *rest):
    entropy, _, for_hidden, for_weight = rest[-4:]
    num_rows = hidden_NH.shape[0]

    def computed(*shape):
        return hidden_NH.new_empty(shape, dtype=computed_dtype(hidden_NH))

    per_row = (computed(num_rows) if wanted else computed(0) for wanted in (entropy, behaviour_N is not None))
    gradients = _fake_gradients(hidden_NH, weight_VH, for_hidden, for_weight)
    return computed(), computed(num_rows), computed(bounds.shape[0] - 1), *per_row, *gradients


@_linear_cross_entropy.register_fake
def _(hidden_NH, weight_VH, local_targets_N, weights_N, tensor_group, chunk_bytes, for_hidden, for_weight):
    logprobs_N = torch.empty_like(weights_N)
    return logprobs_N.new_empty(()), logprobs_N, *_fake_gradients(hidden_NH, weight_VH, for_hidden, for_weight)


def _fake_gradients(hidden_NH: Tensor, weight_VH: Tensor, for_hidden: bool, for_weight: bool) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(hidden_NH) if for_hidden else hidden_NH.new_empty(0),
        weight_VH.new_empty(weight_VH.shape if for_weight else 0),
    )


def _set_up(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.num_inputs = len(inputs)
    ctx.save_for_backward(*output[-2:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, loss_gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    hidden_gradient, weight_gradient = (
        gradient * loss_gradient.to(gradient.dtype) if wanted else None
        for gradient, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad[:2], strict=True)
    )
    return (hidden_gradient, weight_gradient, *[None] * (ctx.num_inputs - 2))


for _operator in (_linear_policy_loss, _linear_cross_entropy):
    _operator.register_autograd(_backward, setup_context=_set_up)
