"""Rotary angles by explicit position, with linear and Llama-3 scaling (transformers' modeling_rope_utils).

megatron-core's own rotary module exposes only the factor of Llama-3's scaling.
"""

import math

import torch
from torch import Tensor

from megatron_k15.models.architecture import Architecture, RopeScaling


def inverse_frequencies(architecture: Architecture) -> Tensor:
    """fp32 [head_dim / 2], in radians per position."""
    exponents = torch.arange(0, architecture.head_dim, 2, dtype=torch.int64).float() / architecture.head_dim
    frequencies = 1.0 / (architecture.rope_theta**exponents)
    scaling = architecture.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    return _llama3(frequencies, scaling)


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Wavelengths beyond the original context are stretched by the factor, short ones kept, a linear blend between."""
    wavelengths = 2 * math.pi / frequencies
    longest_kept = scaling.original_max_positions / scaling.high_freq_factor
    shortest_stretched = scaling.original_max_positions / scaling.low_freq_factor
    smooth = (scaling.original_max_positions / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    stretched = torch.where(wavelengths > shortest_stretched, frequencies / scaling.factor, frequencies)
    between = (wavelengths >= longest_kept) & (wavelengths <= shortest_stretched)
    return torch.where(between, blended, stretched)


def angles(inverse_frequencies: Tensor, positions_T: Tensor) -> Tensor:
    """fp32 [T, 1, 1, head_dim]: the angle of each dimension, both halves alike, as megatron-core takes it."""
    half = torch.outer(positions_T.float(), inverse_frequencies.to(positions_T.device))
    return torch.cat((half, half), dim=-1)[:, None, None, :]
