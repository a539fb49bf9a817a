"""Hidden states and the output weight → gradients, a tile of the vocabulary at a time: for vocabularies so wide that
few whole rows of logits fit. Where enough do, `head.py` takes chunks of them.

First all tiles for each row's statistics, then all again for the gradients: four matrix products, each of many rows,
which stream the weight from memory twice instead of twice per chunk of rows. What a token's coefficient depends on is
known in between.

Legend: N tokens, V this rank's part of the vocabulary, H hidden, R rows of a span, W columns of a tile.
"""

import torch
from torch import Tensor

from megatron_k15.kernels.fresh_memory import new_memory
from megatron_k15.kernels.head import Coefficients, Head, Span, Walked, even_spans
from megatron_k15.kernels.native import operators
from megatron_k15.kernels.reference import computed_dtype
from megatron_k15.kernels.rows import Rows, merged, whole_rows


class TilePass:
    """The rows in spans, the vocabulary in tiles; one buffer of [R, W] logits, which become their gradient."""

    def __init__(self, head: Head, *, limit_bytes: int) -> None:
        (num_rows, hidden_size), width = head.hidden_NH.shape, len(head.weight_VH)
        size = head.hidden_NH.element_size()
        # A third for a span's hidden gradient (fp32, and a tile's part of it), the rest for logits.
        max_rows = max(1, limit_bytes // 3 // max(1, hidden_size * (4 + size)))
        self.spans = even_spans(0, num_rows, max_rows)
        rows = max((end - start for start, end in self.spans), default=1)
        self.tiles = even_spans(0, width, max(1, limit_bytes * 2 // 3 // (rows * size)))
        widest = max((end - start for start, end in self.tiles), default=0)
        self._buffer = new_memory(head.hidden_NH, rows * widest)
        self._head = head

    def read(self, span: Span) -> Rows:
        """The span's rows, of the whole vocabulary."""
        head, (start, end) = self._head, span
        kind = {"dtype": computed_dtype(head.hidden_NH)}
        statistics = head.hidden_NH.new_zeros(4 if head.entropy else 3, end - start, **kind)
        statistics[0] = -torch.inf
        for tile in self.tiles:
            logits_RW, columns_R = self._logits(span, tile)
            one = operators(logits_RW).softmax_statistics(logits_RW, columns_R, head.scale, head.entropy)
            statistics = merged(statistics, one)
        return whole_rows(statistics, head.group, head.entropy)

    def add(
        self, span: Span, rows: Rows, coefficients_R: Tensor, hidden_gradient_RH: Tensor, weight_gradient_VH: Tensor
    ) -> None:
        """The span's gradients: its hidden states' own, and its part of the weight's; [0] where one is not wanted."""
        head, (start, end) = self._head, span
        hidden_RH = head.hidden_NH[start:end]
        total_RH = torch.zeros_like(hidden_gradient_RH, dtype=computed_dtype(hidden_RH))
        for first, last in self.tiles:
            gradient_RW, columns_R = self._logits(span, (first, last))
            operators(gradient_RW).logit_gradient_(
                gradient_RW, columns_R, head.scale, rows.highest_N, rows.sums_N, coefficients_R
            )
            if len(hidden_gradient_RH):
                # A tile's part may be bf16; their sum is not.
                total_RH += torch.mm(gradient_RW, head.weight_VH[first:last])
            if len(weight_gradient_VH):
                weight_gradient_VH[first:last].addmm_(gradient_RW.t(), hidden_RH, beta=0 if start == 0 else 1)
        hidden_gradient_RH.copy_(total_RH)

    def _logits(self, span: Span, tile: Span) -> tuple[Tensor, Tensor]:
        """[R, W] in the buffer, and each target's column in this tile."""
        head, (start, end), (first, last) = self._head, span, tile
        logits_RW = self._buffer[: (end - start) * (last - first)].view(end - start, last - first)
        torch.mm(head.hidden_NH[start:end], head.weight_VH[first:last].t(), out=logits_RW)
        return logits_RW, head.local_targets_N[start:end] - first


def walk_tiles(
    head: Head, coefficients: Coefficients, *, limit_bytes: int, for_hidden: bool, for_weight: bool
) -> Walked:
    """Read all rows, ask once for all coefficients, then add all gradients.

    Args:
        limit_bytes: of logits, and of what adds up a span's hidden gradient, at a time.
    """
    one = TilePass(head, limit_bytes=limit_bytes)
    read = [one.read(span) for span in one.spans]
    empty = head.hidden_NH.new_empty(0, dtype=computed_dtype(head.hidden_NH))
    logprobs_N = torch.cat([rows.logprobs_N for rows in read]) if read else empty
    entropies_N = torch.cat([rows.entropies_N for rows in read]) if read else empty
    coefficients_N = coefficients((0, len(head.hidden_NH)), logprobs_N)
    hidden_gradient = torch.empty_like(head.hidden_NH) if for_hidden else head.hidden_NH.new_empty(0)
    weight_gradient = new_memory(head.weight_VH, *head.weight_VH.shape) if for_weight else head.weight_VH.new_empty(0)
    if not one.spans:
        weight_gradient.zero_()
    if for_hidden or for_weight:
        for (start, end), rows in zip(one.spans, read, strict=True):
            part = hidden_gradient[start:end] if for_hidden else hidden_gradient
            one.add((start, end), rows, coefficients_N[start:end], part, weight_gradient)
    return Walked(logprobs_N, entropies_N, hidden_gradient, weight_gradient)
