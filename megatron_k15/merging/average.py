"""Weighted averages of raw tensor elements: summed in float64, rounded to nearest even.

Legend: M models.
"""

from collections.abc import Sequence

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
    total = np.multiply(_values(sources_M[0], dtype), weights_M[0], dtype=np.float64)
    for source, weight in zip(sources_M[1:], weights_M[1:], strict=True):
        total += np.multiply(_values(source, dtype), weight, dtype=np.float64)
    if dtype == "BF16":
        target.view(np.uint16)[:] = _to_bf16(total)
    else:
        target.view(_NUMPY[dtype])[:] = total


_NUMPY = {"F32": np.float32, "F16": np.float16}


def _values(source: Elements, dtype: str) -> NDArray[np.floating]:
    if dtype == "BF16":
        return (source.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return source.view(_NUMPY[dtype])


def _to_bf16(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """NumPy has no bfloat16: the upper half of float32, rounded by hand."""
    single = values.astype(np.float32)
    bits = single.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    # A NaN's bits could carry over into infinity.
    return np.where(np.isnan(single), (bits >> 16) | 0x40, rounded).astype(np.uint16)
