"""Random inputs of the kernels' tests, drawn by hypothesis or from a seed."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from megatron_k15.kernels.policy_loss import Sequences

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
WIDTHS = (1, 2, 7, 8, 9, 31, 127, 128, 129, 323, 1003)
"""Around every vector width and its multiples."""


def logits(
    num_rows: int, width: int, dtype: torch.dtype, *, seed: int, scale: float = 4.0, hidden: float = 0.0
) -> Tensor:
    """A part `hidden` of them is -inf, never a whole row."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(num_rows, width, generator=generator, dtype=torch.float64) * scale
    away = torch.rand(num_rows, width, generator=generator) < hidden
    away[:, 0] = False
    return values.masked_fill(away, -torch.inf).to(dtype)


@st.composite
def bounds_of(draw: st.DrawFn, *, max_sequences: int = 5, max_tokens: int = 9) -> list[int]:
    """Sequences of 0 to `max_tokens` tokens, laid end to end."""
    lengths = draw(st.lists(st.integers(0, max_tokens), min_size=1, max_size=max_sequences))
    return [sum(lengths[:index]) for index in range(len(lengths) + 1)]


def sequences(
    bounds: list[int], *, seed: int, with_reference: bool = True, with_behaviour: bool = False, in_loss: float = 0.8
) -> Sequences:
    """fp64 numbers; `in_loss` is the part of the tokens that is."""
    generator = torch.Generator().manual_seed(seed)
    num_tokens, count = bounds[-1], len(bounds) - 1

    def numbers(size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    return Sequences(
        numbers(num_tokens) - 3 if with_reference else None,
        numbers(num_tokens) - 3 if with_behaviour else None,
        torch.rand(num_tokens, generator=generator) < in_loss,
        torch.tensor(bounds),
        numbers(count),
        numbers(count).abs(),
    )


def targets(num_rows: int, width: int, *, seed: int, outside: int = 0) -> Tensor:
    """Some up to `outside` columns beyond either end, as with tensor parallelism."""
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randint(-outside, width + outside, (num_rows,), generator=generator)
