"""Hidden states and the output weight → gradients, a tile of the vocabulary at a time.

First all tiles for each row's statistics, then all again for the gradients. What a token's coefficient depends on is
known in between. Each product is of many rows, which stream the weight from memory once per pass. Two cases:

    held      the weight's gradient has room for all logits (no more rows than hidden dimensions): they wait there.
              Three products, whatever the coefficients wait for
    again     few whole rows of so wide a vocabulary fit into the budget: logits are computed twice, four products.
              Where many rows fit, `head.py` takes chunks of them

How the logits wait in memory that is overwritten meanwhile: at its end, tile after tile.

    weight gradient, V x H    |        free         | 0 | 1 | 2 | 3 |    N x W logits each, all read
                              |    tile 0    | free     | 1 | 2 | 3 |    W x H numbers each take the place from the
                              |    tile 0    |    tile 1    | 2 | 3 |    front: as N <= H, never of a later tile

Legend: N tokens, V this rank's part of the vocabulary, H hidden, R rows of a span, W columns of a tile.
"""

import torch
from torch import Tensor

from megatron_k15.kernels.fresh_memory import new_memory
from megatron_k15.kernels.head import Coefficients, Head, Span, Walked, even_spans
from megatron_k15.kernels.native import operators
from megatron_k15.kernels.reference import computed_dtype
from megatron_k15.kernels.rows import Rows, merged, whole_rows


def can_hold(head: Head, *, limit_bytes: int) -> bool:
    """Whether the weight's gradient has room for all logits, and the budget for all rows in one span."""
    num_rows, hidden_size = head.hidden_NH.shape
    return num_rows <= min(hidden_size, _max_rows(head, limit_bytes))


def _max_rows(head: Head, limit_bytes: int) -> int:
    """Of a span: a third of the budget is for its hidden gradient (fp32, and a tile's part of it)."""
    hidden_NH = head.hidden_NH
    return max(1, limit_bytes // 3 // max(1, hidden_NH.shape[1] * (4 + hidden_NH.element_size())))


class TilePass:
    """The rows in spans, the vocabulary in tiles; one buffer of [R, W] logits, which become their gradient."""

    def __init__(self, head: Head, *, limit_bytes: int, held: Tensor | None = None) -> None:
        """
        Args:
            held: [N * V], where the logits of all rows wait, the only span; see the file's head.
        """
        num_rows, width = len(head.hidden_NH), len(head.weight_VH)
        size = head.hidden_NH.element_size()
        self.spans = even_spans(0, num_rows, _max_rows(head, limit_bytes))
        rows = max((end - start for start, end in self.spans), default=1)
        logit_bytes = limit_bytes // 3 if held is not None else limit_bytes * 2 // 3
        self.tiles = even_spans(0, width, max(1, logit_bytes // (rows * size)))
        widest = max((end - start for start, end in self.tiles), default=0)
        self._buffer = new_memory(head.hidden_NH, rows * widest)
        self._held = held
        self._head = head

    def read(self, span: Span) -> Rows:
        """The span's rows, of the whole vocabulary."""
        head, (start, end) = self._head, span
        kind = {"dtype": computed_dtype(head.hidden_NH)}
        statistics = head.hidden_NH.new_zeros(4 if head.entropy else 3, end - start, **kind)
        statistics[0] = -torch.inf
        for tile in self.tiles:
            logits_RW, columns_R = self._computed(span, tile), self._columns(span, tile)
            one = operators(logits_RW).softmax_statistics(logits_RW, columns_R, head.scale, head.entropy)
            statistics = merged(statistics, one)
        return whole_rows(statistics, head.group, head.entropy)

    def add(
        self, span: Span, rows: Rows, coefficients_R: Tensor, hidden_gradient_RH: Tensor, weight_gradient_VH: Tensor
    ) -> None:
        """The span's gradients: its hidden states' own, and its part of the weight's; [0] where one is not wanted."""
        head, (start, end) = self._head, span
        hidden_RH = head.hidden_NH[start:end]
        # A tile's part may be bf16; their sum is not.
        narrow = hidden_RH.dtype != computed_dtype(hidden_RH)
        total_RH = hidden_gradient_RH.float() if narrow else hidden_gradient_RH
        total_RH.zero_()
        for first, last in self.tiles:
            gradient_RW, columns_R = self._once_more(span, (first, last)), self._columns(span, (first, last))
            operators(gradient_RW).logit_gradient_(
                gradient_RW, columns_R, head.scale, rows.highest_N, rows.sums_N, coefficients_R
            )
            if len(hidden_gradient_RH) and narrow:
                total_RH += torch.mm(gradient_RW, head.weight_VH[first:last])
            elif len(hidden_gradient_RH):
                total_RH.addmm_(gradient_RW, head.weight_VH[first:last])
            if len(weight_gradient_VH):
                weight_gradient_VH[first:last].addmm_(gradient_RW.t(), hidden_RH, beta=0 if start == 0 else 1)
        if narrow:
            hidden_gradient_RH.copy_(total_RH)

    def _computed(self, span: Span, tile: Span) -> Tensor:
        """[R, W] logits, in the buffer or where they wait."""
        head, (start, end), (first, last) = self._head, span, tile
        logits_RW = self._place(self._buffer, 0, span, tile) if self._held is None else self._waiting(span, tile)
        return torch.mm(head.hidden_NH[start:end], head.weight_VH[first:last].t(), out=logits_RW)

    def _once_more(self, span: Span, tile: Span) -> Tensor:
        """The same, in the buffer: where they waited the weight's gradient goes."""
        if self._held is None:
            return self._computed(span, tile)
        return self._place(self._buffer, 0, span, tile).copy_(self._waiting(span, tile))

    def _waiting(self, span: Span, tile: Span) -> Tensor:
        assert self._held is not None
        return self._place(self._held, (span[1] - span[0]) * tile[0], span, tile)

    def _place(self, memory: Tensor, offset: int, span: Span, tile: Span) -> Tensor:
        num_rows, num_columns = span[1] - span[0], tile[1] - tile[0]
        return memory[offset : offset + num_rows * num_columns].view(num_rows, num_columns)

    def _columns(self, span: Span, tile: Span) -> Tensor:
        """[R] each target's column in this tile."""
        return self._head.local_targets_N[span[0] : span[1]] - tile[0]


def walk_tiles(
    head: Head, coefficients: Coefficients, *, limit_bytes: int, for_hidden: bool, for_weight: bool
) -> Walked:
    """Read all rows, ask once for all coefficients, then add all gradients.

    Args:
        limit_bytes: of logits, and of what adds up a span's hidden gradient, at a time.
    """
    weight_gradient = new_memory(head.weight_VH, *head.weight_VH.shape) if for_weight else head.weight_VH.new_empty(0)
    num_logits = len(head.hidden_NH) * len(head.weight_VH)
    holds = for_weight and can_hold(head, limit_bytes=limit_bytes)
    held = weight_gradient.view(-1)[weight_gradient.numel() - num_logits :] if holds else None
    one = TilePass(head, limit_bytes=limit_bytes, held=held)
    read = [one.read(span) for span in one.spans]
    empty = head.hidden_NH.new_empty(0, dtype=computed_dtype(head.hidden_NH))
    logprobs_N = torch.cat([rows.logprobs_N for rows in read]) if read else empty
    entropies_N = torch.cat([rows.entropies_N for rows in read]) if read else empty
    coefficients_N = coefficients((0, len(head.hidden_NH)), logprobs_N)
    hidden_gradient = torch.empty_like(head.hidden_NH) if for_hidden else head.hidden_NH.new_empty(0)
    if not one.spans:
        weight_gradient.zero_()
    if for_hidden or for_weight:
        for (start, end), rows in zip(one.spans, read, strict=True):
            part = hidden_gradient[start:end] if for_hidden else hidden_gradient
            one.add((start, end), rows, coefficients_N[start:end], part, weight_gradient)
    return Walked(logprobs_N, entropies_N, hidden_gradient, weight_gradient)
