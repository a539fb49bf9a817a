"""How rows are cut into spans that are computed at a time, and spans are joined to blocks of whole sequences."""

from collections.abc import Sequence
from itertools import pairwise

Span = tuple[int, int]
"""Rows, or columns, [start, end)."""


def even_spans(first: int, last: int, most: int) -> list[Span]:
    """As few as hold at most `most` each, alike in size."""
    count = -(-(last - first) // most)
    cuts = [first + (last - first) * index // count for index in range(count + 1)] if count else []
    return list(pairwise(cuts))


def single_span_blocks(num_rows: int, max_rows: int) -> list[list[Span]]:
    """Where no row waits for another one: each span is a block."""
    return [[span] for span in even_spans(0, num_rows, max_rows)]


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
