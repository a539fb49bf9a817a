"""Weighted averages of raw tensor elements: the exact sum's float64, rounded once, to nearest even.

Legend: M models.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Elements = NDArray[np.uint8]
"""Bytes of elements that follow one another."""


def normalized(weights_M: Sequence[float]) -> tuple[float, ...]:
    """Divided by their sum."""
    total = sum(weights_M)
    return tuple(weight / total for weight in weights_M)


def average_into(sources_M: Sequence[Elements], weights_M: Sequence[float], dtype: str, target: Elements) -> None:
    """Σ w_m x_m, element by element.

    Args:
        dtype: safetensors' name: `F32`, `F16` or `BF16`.
        target: as many bytes; may be one of the sources.
    """
    stored = _STORED[dtype]
    views_M, result = [source.view(stored) for source in sources_M], target.view(stored)
    is_mean_of_two = dtype == "BF16" and tuple(weights_M) == (0.5, 0.5)
    # What is too large for the dtype becomes infinite and what is no number stays none, as in PyTorch.
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(result), BLOCK_ELEMENTS):
            block = slice(start, start + BLOCK_ELEMENTS)
            blocks_M = [view[block] for view in views_M]
            result[block] = _mean_of_two_bf16(*blocks_M) if is_mean_of_two else _sum(blocks_M, weights_M, dtype)


BLOCK_ELEMENTS = 2**17
"""At a time, so that their float64 sums stay in the processor's cache."""

_STORED: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}

_BF16_TINY = 2.0**-126
"""Below it bfloat16 has one spacing, 2^-133."""
_DROPPED_BITS = np.uint64(45)
"""A float64 has 52 bits of mantissa, a bfloat16 7."""


def _values(elements: NDArray[Any]) -> NDArray[np.floating]:
    if elements.dtype == _STORED["BF16"]:
        widened = elements.astype(np.uint32)
        widened <<= np.uint32(16)
        return widened.view(np.float32)
    return elements


def _sum(blocks_M: Sequence[NDArray[Any]], weights_M: Sequence[float], dtype: str) -> NDArray[Any]:
    total = np.multiply(_values(blocks_M[0]), weights_M[0], dtype=np.float64)
    for block, weight in zip(blocks_M[1:], weights_M[1:], strict=True):
        total += np.multiply(_values(block), weight, dtype=np.float64)
    return _to_bf16(total) if dtype == "BF16" else total


def _mean_of_two_bf16(first: NDArray[np.uint16], second: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The usual merge, in half the bytes. Halves are exact, and float32 has more than twice bfloat16's 8 bits, plus 2:
    a sum of two that is rounded to it first is rounded as if once (S. A. Figueroa, When is double rounding innocuous?,
    1995)."""
    total = _values(first)
    total *= np.float32(0.5)
    other = _values(second)
    other *= np.float32(0.5)
    total += other
    bits = total.view(np.uint32)
    is_odd = other.view(np.uint32)  # its memory; its values are done with
    np.right_shift(bits, 16, out=is_odd)
    is_odd &= np.uint32(1)
    bits += is_odd
    bits += np.uint32(2**15 - 1)
    bits >>= np.uint32(16)
    return bits.astype(np.uint16)


def _to_bf16(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """NumPy has no bfloat16. Rounded by hand (in place) and once: by way of float32, a sum just beside the middle of
    two neighbours would be taken for the middle."""
    tiny = np.abs(values) < _BF16_TINY
    if tiny.any():
        values[tiny] = np.rint(values[tiny] / 2.0**-133) * 2.0**-133
    bits = values.view(np.uint64)
    is_odd = (bits >> _DROPPED_BITS) & np.uint64(1)
    bits += is_odd
    bits += np.uint64(2**44 - 1)
    bits &= np.uint64(2**64 - 2**45)
    # What is left are bfloat16's own values: exact in float32, whose upper half they are.
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
