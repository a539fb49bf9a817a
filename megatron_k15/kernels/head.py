"""Hidden states and the output weight → losses and both gradients, in spans of rows and tiles of the vocabulary.

All of a span's tiles are read for its softmax. As soon as its tokens' coefficients are known (for a sequence that takes
several spans, when these have been read), its logits become their own gradient, tile by tile, and enter the two other
products. Thus the forward pass makes the gradients; the backward pass hands them out.

Where a span's logits wait in between (`Plan.of` takes the first that fits):

    buffer            whole rows within the budget, in one tile: three matrix products, as in any training step. Of a
                      block of several spans the last one's wait; the others' are computed again: four products
    weight gradient   it has room for all logits (no more rows than hidden dimensions): three products, whatever the
                      coefficients wait for
    nowhere           few whole rows of so wide a vocabulary fit, and every span streams the weight from memory: rather
                      more rows, and each tile twice

How the logits wait in memory that is overwritten meanwhile: at its end, tile after tile.

    weight gradient, V x H    |        free         | 0 | 1 | 2 | 3 |    N x W logits each, all read
                              |    tile 0    | free     | 1 | 2 | 3 |    W x H numbers each take the place from the
                              |    tile 0    |    tile 1    | 2 | 3 |    front: as N <= H, never of a later tile

Legend: N tokens, V this rank's part of the vocabulary, H hidden, R rows of a span, W columns of a tile.
"""

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from megatron_k15.kernels.fresh_memory import new_memory
from megatron_k15.kernels.native import operators
from megatron_k15.kernels.reference import computed_dtype
from megatron_k15.kernels.rows import Rows, all_reduce, merged, whole_rows
from megatron_k15.kernels.spans import Span, even_spans

CHUNK_BYTES = {"cpu": 56 << 20, "cuda": 512 << 20}
"""Of logits held at a time. On a GPU fewer rows than a thousand or so would leave its matrix units idle."""

MIN_ROWS = {"cpu": 128, "cuda": 512}
"""Where fewer rows fit into the budget, the weight would be streamed from memory too often."""

Coefficients = Callable[[Span, Tensor], Tensor]
"""Rows and their logprobs → d loss / d logprob of each."""


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
    for_hidden: bool
    for_weight: bool
    """Which gradients are wanted."""


class Wait(Enum):
    """Where a span's logits are between `HeadPass.read` and `HeadPass.add`; the file's head says more."""

    BUFFER = auto()
    WEIGHT_GRADIENT = auto()
    NOWHERE = auto()


class Plan(NamedTuple):
    """How much at a time. Rows are alike on all tensor ranks, as they exchange something for each span."""

    max_rows: int
    """Of a span."""
    tile_bytes: int
    wait: Wait

    @classmethod
    def of(cls, head: Head, chunk_bytes: int | None) -> "Plan":
        """
        Args:
            chunk_bytes: of logits, and of what adds up a span's hidden gradient. None: `CHUNK_BYTES`.
        """
        kind, (num_rows, hidden_size) = head.hidden_NH.device.type, head.hidden_NH.shape
        limit = CHUNK_BYTES[kind] if chunk_bytes is None else chunk_bytes
        size = head.hidden_NH.element_size()
        width = torch.tensor(len(head.weight_VH), device=head.weight_VH.device)
        all_reduce(width, dist.ReduceOp.MAX, head.group)
        fitting = max(1, limit // max(1, int(width) * size))
        needs_gradients = head.for_hidden or head.for_weight
        whole = cls(fitting, limit, Wait.BUFFER if needs_gradients else Wait.NOWHERE)
        # In tiles a third of the budget is for the span's hidden gradient (fp32, and a tile's part of it).
        rows_in_tiles, tile_bytes = max(1, limit // 3 // max(1, hidden_size * (4 + size))), limit * 2 // 3
        if num_rows <= fitting:
            return whole
        if head.for_weight and num_rows <= min(hidden_size, rows_in_tiles):
            return cls(num_rows, tile_bytes, Wait.WEIGHT_GRADIENT)
        return whole if fitting >= MIN_ROWS[kind] else cls(rows_in_tiles, tile_bytes, Wait.NOWHERE)


class HeadPass:
    """One walk over the rows: `read` a span, then `add` it."""

    def __init__(self, head: Head, plan: Plan, max_rows: int) -> None:
        """
        Args:
            max_rows: of the spans that come, at most the plan's.
        """
        hidden_NH, weight_VH = head.hidden_NH, head.weight_VH
        width = len(weight_VH)
        self.hidden_gradient_NH = torch.empty_like(hidden_NH) if head.for_hidden else hidden_NH.new_empty(0)
        self.weight_gradient_VH = new_memory(weight_VH, *weight_VH.shape) if head.for_weight else weight_VH.new_empty(0)
        self._head, self._wait = head, plan.wait
        row_bytes = max(1, max_rows * hidden_NH.element_size())
        self._tiles = even_spans(0, width, max(1, plan.tile_bytes // row_bytes))
        widest = max((last - first for first, last in self._tiles), default=0)
        self._buffer = new_memory(hidden_NH, max_rows * (width if plan.wait is Wait.BUFFER else widest))
        self._waiting: Span | None = None
        self._weight_begun = False

    def read(self, span: Span) -> Rows:
        """The softmax of these rows, over the whole vocabulary."""
        head, (start, end) = self._head, span
        statistics = head.hidden_NH.new_zeros(
            4 if head.entropy else 3, end - start, dtype=computed_dtype(head.hidden_NH)
        )
        statistics[0] = -torch.inf
        for tile in self._tiles:
            logits_RW = self._compute(span, tile)
            found = operators(logits_RW).softmax_statistics(
                logits_RW, self._columns(span, tile), head.scale, head.entropy
            )
            statistics = merged(statistics, found)
        self._waiting = None if self._wait is Wait.NOWHERE else span
        return whole_rows(statistics, head.group, head.entropy)

    def add(self, span: Span, rows: Rows, coefficients_R: Tensor) -> None:
        """These rows' gradients: of their hidden states, and their part of the weight's."""
        head, (start, end) = self._head, span
        hidden_RH = head.hidden_NH[start:end]
        waited, self._waiting = self._waiting == span, None
        highest_R, sums_R = rows.highest_N.contiguous(), rows.sums_N.contiguous()
        hidden_gradient = _Sum(self.hidden_gradient_NH[start:end], len(self._tiles)) if head.for_hidden else None
        for first, last in self._tiles:
            gradient_RW = self._logits_again(span, (first, last), waited)
            operators(gradient_RW).logit_gradient_(
                gradient_RW, self._columns(span, (first, last)), head.scale, highest_R, sums_R, coefficients_R
            )
            if hidden_gradient is not None:
                hidden_gradient.add_product(gradient_RW, head.weight_VH[first:last])
            if head.for_weight:
                part_WH = self.weight_gradient_VH[first:last]
                part_WH.addmm_(gradient_RW.t(), hidden_RH, beta=1 if self._weight_begun else 0)
        if hidden_gradient is not None:
            hidden_gradient.finish()
        self._weight_begun = True

    def finish(self) -> None:
        """Where no row was added at all, the weight's gradient is 0."""
        if not self._weight_begun:
            self.weight_gradient_VH.zero_()

    def _compute(self, span: Span, tile: Span) -> Tensor:
        """A tile's logits, where they wait."""
        head, (start, end), (first, last) = self._head, span, tile
        return torch.mm(head.hidden_NH[start:end], head.weight_VH[first:last].t(), out=self._place(span, tile))

    def _logits_again(self, span: Span, tile: Span, waited: bool) -> Tensor:
        """A tile's logits, where they may become their gradient."""
        if self._wait is Wait.WEIGHT_GRADIENT:
            assert waited, "there is one span, and the weight's gradient goes where its logits waited"
            return _shaped(self._buffer, 0, span, tile).copy_(self._place(span, tile))
        return self._place(span, tile) if waited else self._compute(span, tile)

    def _place(self, span: Span, tile: Span) -> Tensor:
        """[R, W] where a tile's logits wait."""
        num_rows = span[1] - span[0]
        if self._wait is Wait.NOWHERE:
            return _shaped(self._buffer, 0, span, tile)
        if self._wait is Wait.BUFFER:
            return _shaped(self._buffer, num_rows * tile[0], span, tile)
        memory = self.weight_gradient_VH.view(-1)
        free = memory.numel() - num_rows * len(self._head.weight_VH)
        return _shaped(memory, free + num_rows * tile[0], span, tile)

    def _columns(self, span: Span, tile: Span) -> Tensor:
        """[R] each target's column in this tile."""
        return self._head.local_targets_N[span[0] : span[1]] - tile[0]


class _Sum:
    """Products added up in `out`; where they are several and bf16 or fp16, in fp32 and rounded once."""

    def __init__(self, out: Tensor, count: int) -> None:
        self._out = out
        self._narrow = count > 1 and out.dtype != computed_dtype(out)
        self._total = torch.zeros_like(out, dtype=computed_dtype(out)) if self._narrow else out.zero_()

    def add_product(self, left: Tensor, right: Tensor) -> None:
        if self._narrow:
            self._total += torch.mm(left, right)
        else:
            self._total.addmm_(left, right)

    def finish(self) -> None:
        if self._narrow:
            self._out.copy_(self._total)


def _shaped(memory: Tensor, offset: int, span: Span, tile: Span) -> Tensor:
    num_rows, num_columns = span[1] - span[0], tile[1] - tile[0]
    return memory[offset : offset + num_rows * num_columns].view(num_rows, num_columns)


class Walked(NamedTuple):
    logprobs_N: Tensor
    entropies_N: Tensor
    hidden_gradient_NH: Tensor
    """[0] where not needed, as `weight_gradient_VH`."""
    weight_gradient_VH: Tensor


def walk(head: Head, plan: Plan, blocks: Sequence[Sequence[Span]], coefficients: Coefficients) -> Walked:
    """Block by block: read all its spans, ask for the coefficients of the block, then add its spans' gradients.

    Args:
        blocks: consecutive spans that cover the rows, of at most the plan's; a block's coefficients need the logprobs
            of all its spans.
    """
    largest = max((end - start for block in blocks for start, end in block), default=0)
    one = HeadPass(head, plan, largest)
    logprobs, entropies = [], []
    for block in blocks:
        read = [one.read(span) for span in block]
        logprobs += [rows.logprobs_N for rows in read]
        entropies += [rows.entropies_N for rows in read]
        start = block[0][0]
        found = coefficients((start, block[-1][1]), torch.cat([rows.logprobs_N for rows in read]))
        if head.for_hidden or head.for_weight:
            # From the last: its logits are still there.
            for (first, last), rows in zip(reversed(block), reversed(read), strict=True):
                one.add((first, last), rows, found[first - start : last - start])
    one.finish()
    return Walked(_joined(logprobs, head), _joined(entropies, head), one.hidden_gradient_NH, one.weight_gradient_VH)


def _joined(parts: list[Tensor], head: Head) -> Tensor:
    return torch.cat(parts) if parts else head.hidden_NH.new_empty(0, dtype=computed_dtype(head.hidden_NH))


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
