"""Hidden states and the output weight → losses, a chunk of rows at a time. `tiles.py` does the same in other cases.

    known     where a chunk's own logprobs give each token's coefficient, its logits become their gradient at once:
              three matrix products, as in any training step
    unknown   where a sequence spans chunks, its logprobs come first and the logits of all chunks but the last again:
              four products

The gradients of hidden states and weight are thus made in the forward pass; the backward pass hands them out.

Legend: N tokens, V this rank's part of the vocabulary, H hidden, C rows of a chunk.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from megatron_k15.kernels.fresh_memory import new_memory
from megatron_k15.kernels.native import operators
from megatron_k15.kernels.rows import Rows, all_reduce, read_rows

CHUNK_BYTES = {"cpu": 56 << 20, "cuda": 512 << 20}
"""Logits held at a time. On a GPU fewer rows than a thousand or so would leave its matrix units idle."""

MIN_ROWS = {"cpu": 128, "cuda": 512}
"""Where fewer rows fit into a chunk, the weight would be streamed from memory too often: see `tiles.py`."""

Span = tuple[int, int]
"""Rows [start, end)."""
Coefficients = Callable[[Span, Tensor], Tensor]
"""A span of rows and their logprobs → d loss / d logprob of each."""


class Head(NamedTuple):
    """The last layer and what it is asked."""

    hidden_NH: Tensor
    weight_VH: Tensor
    local_targets_N: Tensor
    """Column of this rank's part; outside of it where another rank holds the target."""
    scale: float
    """1 / temperature."""
    group: str
    """Name of the tensor-parallel group; empty where the vocabulary is whole."""
    entropy: bool


class HeadPass:
    """One walk over the rows. `read` a span, then, while it is the latest read or by reading it again, `add` it."""

    def __init__(self, head: Head, *, max_rows: int, for_hidden: bool, for_weight: bool) -> None:
        self._head = head
        hidden_NH, weight_VH = head.hidden_NH, head.weight_VH
        self._logits = new_memory(hidden_NH, min(max_rows, len(hidden_NH)), len(weight_VH))
        self._held: tuple[Span, Rows] | None = None
        self.hidden_gradient_NH = torch.empty_like(hidden_NH) if for_hidden else hidden_NH.new_empty(0)
        self.weight_gradient_VH = new_memory(weight_VH, *weight_VH.shape) if for_weight else weight_VH.new_empty(0)
        self._for_hidden, self._for_weight = for_hidden, for_weight
        self._weight_begun = False

    @property
    def needs_gradients(self) -> bool:
        return self._for_hidden or self._for_weight

    def read(self, span: Span) -> Rows:
        """Logits of these rows into the buffer, and what their softmax needs."""
        head, (start, end) = self._head, span
        logits_CV = self._logits[: end - start]
        torch.mm(head.hidden_NH[start:end], head.weight_VH.t(), out=logits_CV)
        rows = read_rows(logits_CV, head.local_targets_N[start:end], head.scale, head.group, head.entropy)
        self._held = span, rows
        return rows

    def add(self, span: Span, coefficients_C: Tensor) -> None:
        """These rows' gradients. The logits in the buffer become their own gradient."""
        if self._held is None or self._held[0] != span:
            self.read(span)
        assert self._held is not None
        (start, end), rows = self._held
        self._held = None
        head, gradient_CV = self._head, self._logits[: end - start]
        operators(gradient_CV).logit_gradient_(
            gradient_CV,
            head.local_targets_N[start:end],
            head.scale,
            rows.highest_N.contiguous(),
            rows.sums_N.contiguous(),
            coefficients_C,
        )
        if self._for_hidden:
            torch.mm(gradient_CV, head.weight_VH, out=self.hidden_gradient_NH[start:end])
        if self._for_weight:
            self._add_to_weight(gradient_CV, head.hidden_NH[start:end])

    def finish(self) -> None:
        """Where no row was added at all, the weight's gradient is 0."""
        if self._for_weight and not self._weight_begun:
            self.weight_gradient_VH.zero_()

    def _add_to_weight(self, gradient_CV: Tensor, hidden_CH: Tensor) -> None:
        if self._weight_begun:
            self.weight_gradient_VH.addmm_(gradient_CV.t(), hidden_CH)
        else:
            torch.mm(gradient_CV.t(), hidden_CH, out=self.weight_gradient_VH)
        self._weight_begun = True


class Walked(NamedTuple):
    logprobs_N: Tensor
    entropies_N: Tensor
    hidden_gradient_NH: Tensor
    """[0] where not needed, as `weight_gradient_VH`."""
    weight_gradient_VH: Tensor


def walk(
    head: Head,
    blocks: Sequence[Sequence[Span]],
    coefficients: Coefficients,
    *,
    for_hidden: bool,
    for_weight: bool,
) -> Walked:
    """Block by block: read all its spans, ask for the coefficients of the block, then add its spans' gradients.

    Args:
        blocks: consecutive spans that cover the rows; a block's coefficients need the logprobs of all its spans.
    """
    largest = max((end - start for block in blocks for start, end in block), default=0)
    one = HeadPass(head, max_rows=largest, for_hidden=for_hidden, for_weight=for_weight)
    logprobs, entropies = [], []
    for block in blocks:
        read = [one.read(span) for span in block]
        logprobs += [rows.logprobs_N for rows in read]
        entropies += [rows.entropies_N for rows in read]
        start = block[0][0]
        found = coefficients((start, block[-1][1]), torch.cat([rows.logprobs_N for rows in read]))
        if one.needs_gradients:
            # From the last: its logits are still there.
            for first, last in reversed(block):
                one.add((first, last), found[first - start : last - start])
    one.finish()
    return Walked(_joined(logprobs, head), _joined(entropies, head), one.hidden_gradient_NH, one.weight_gradient_VH)


def even_spans(first: int, last: int, max_rows: int) -> list[Span]:
    """As few as hold at most `max_rows` each, alike in size."""
    count = -(-(last - first) // max_rows)
    cuts = [first + (last - first) * index // count for index in range(count + 1)] if count else []
    return list(pairwise(cuts))


def whole_sequence_blocks(bounds: Sequence[int], max_rows: int) -> list[list[Span]]:
    """Blocks of whole sequences: as many as fit into one span, or a single longer one in several spans."""
    blocks = _filled_blocks(bounds, max_rows)
    # A small last span makes slow products: fill all alike where that takes no more blocks.
    longest = max((last - first for first, last in pairwise(bounds)), default=0)
    even_rows = max(longest, -(-bounds[-1] // max(1, len(blocks))))
    evener = _filled_blocks(bounds, even_rows) if even_rows < max_rows else blocks
    return evener if len(evener) == len(blocks) else blocks


def _filled_blocks(bounds: Sequence[int], max_rows: int) -> list[list[Span]]:
    """The same, each block but the last as full as it gets."""
    blocks = []
    start = end = 0
    for first, last in pairwise(bounds):
        if last - start > max_rows and end > start:
            blocks.append([(start, end)])
            start = first
        if last - start > max_rows:
            blocks.append(even_spans(start, last, max_rows))
            start = last
        end = last
    return [*blocks, [(start, end)]] if end > start else blocks


class Budget(NamedTuple):
    """What may be held at a time, alike on all tensor ranks: they exchange something for each chunk."""

    limit_bytes: int
    max_rows: int
    """Whole rows of logits that fit."""
    tiled: bool
    """Too few of them for `walk`: use `tiles.walk_tiles`."""

    @classmethod
    def of(cls, head: Head, chunk_bytes: int | None) -> "Budget":
        width = torch.tensor(len(head.weight_VH), device=head.weight_VH.device)
        all_reduce(width, dist.ReduceOp.MAX, head.group)
        kind = head.hidden_NH.device.type
        limit = CHUNK_BYTES[kind] if chunk_bytes is None else chunk_bytes
        max_rows = max(1, limit // max(1, int(width) * head.hidden_NH.element_size()))
        return cls(limit, max_rows, max_rows < min(MIN_ROWS[kind], len(head.hidden_NH)))


class HandOut(Function):
    """Gradients that the forward pass made: `apply(hidden, weight, run)`, with `run(for_hidden, for_weight)` giving
    (loss, …, hidden gradient, weight gradient). For one backward pass: it scales them in place."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, run: Callable[[bool, bool], tuple[Tensor, ...]]) -> Any:
        *results, ctx.for_hidden, ctx.for_weight = run(*ctx.needs_input_grad[:2])
        ctx.mark_non_differentiable(*results[1:])
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # Taken away, so that autograd may keep the very memory, and a second backward pass fails.
        found = [ctx.for_hidden, ctx.for_weight]
        del ctx.for_hidden, ctx.for_weight
        loss_gradient = gradients[0]
        if loss_gradient.is_cuda or loss_gradient != 1:
            for gradient in found:
                gradient.mul_(loss_gradient)
        wanted = ctx.needs_input_grad
        return (found[0] if wanted[0] else None), (found[1] if wanted[1] else None), None


def _joined(parts: list[Tensor], head: Head) -> Tensor:
    return torch.cat(parts) if parts else head.hidden_NH.new_empty(0)
