"""Averages against PyTorch's float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_k15.merging.average import BLOCK_ELEMENTS, average_into, normalized

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def _average(tensors: list[torch.Tensor], weights: list[float], name: str) -> torch.Tensor:
    target = torch.empty_like(tensors[0])
    sources = [tensor.view(torch.uint8).numpy() for tensor in tensors]
    average_into(sources, weights, name, target.view(torch.uint8).numpy())
    return target


@pytest.mark.parametrize("name", DTYPES)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 4), scale=st.sampled_from([1e-6, 1.0, 1e3]))
def test_it_is_the_float64_sum_rounded_to_the_nearest(name: str, seed: int, count: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = [(scale * torch.randn(257, generator=generator)).to(DTYPES[name]) for _ in range(count)]
    weights = list(normalized(torch.rand(count, generator=generator).add(0.1).tolist()))
    exact = sum(weight * tensor.double() for weight, tensor in zip(weights, tensors, strict=True))
    found = _average(tensors, weights, name)
    if name == "BF16":
        assert torch.equal(found, _nearest_bf16(exact))
    elif name == "F16":  # PyTorch goes through float32 on its way there, and so rounds twice
        spacing = np.spacing(found.abs().numpy().astype(np.float16)).astype(np.float64)
        assert ((found.double() - exact).abs().numpy() <= spacing / 2).all()
    else:
        assert torch.equal(found, exact.float())


def _nearest_bf16(exact: torch.Tensor) -> torch.Tensor:
    """PyTorch rounds twice on its way there, so its result and both neighbours are measured against the float64."""
    bits = exact.bfloat16().view(torch.int16)
    candidates = torch.stack([bits + step for step in (-1, 0, 1)]).view(torch.bfloat16)
    errors = (candidates.double() - exact).abs()
    is_nearest = errors == errors.min(dim=0).values
    is_odd = (candidates.view(torch.int16) & 1).bool()
    errors[is_nearest & is_odd & (is_nearest.sum(dim=0) > 1)] = float(
        "inf"
    )  # of two that are equally near, the even one
    choice = errors.argmin(dim=0)
    return candidates.gather(0, choice.unsqueeze(0)).squeeze(0)


def test_bf16_rounds_to_nearest_even_and_keeps_what_is_not_finite() -> None:
    one, ulp = 1.0, 2.0**-7
    pairs = [(one, one + ulp), (one + ulp, one + 2 * ulp), (float("inf"), 1.0), (float("nan"), 1.0), (-0.0, -0.0)]
    first, second = (torch.tensor([pair[side] for pair in pairs], dtype=torch.bfloat16) for side in (0, 1))
    found = _average([first, second], [0.5, 0.5], "BF16")
    # Halfway between 1 and 1 + ulp lies the even 1; between 1 + ulp and 1 + 2 ulp the even 1 + 2 ulp.
    assert found[:3].tolist() == [1.0, 1.0 + 2 * ulp, float("inf")]
    assert bool(found[3].isnan())
    assert torch.signbit(found[4])


def test_bf16_is_rounded_once_and_below_its_normal_numbers_too() -> None:
    smallest = 2.0**-133
    columns = [  # values, weighted sum, nearest
        (
            [1.0, 1 + 2.0**-7, 2.0**-40],
            1 + 2.0**-7,
        ),  # just above the middle; float32 would see the middle, and 1 is even
        ([1 + 2.0**-7, 1 + 2 * 2.0**-7, -(2.0**-40)], 1 + 2.0**-7),
        ([3 * smallest, 0.0, 0.0], 2 * smallest),  # 1.5: the even neighbour
        ([smallest, smallest, -(2.0**-30) * smallest * 2**7], smallest),
        ([smallest, 0.0, 0.0], 0.0),
    ]
    tensors = [torch.tensor([values[side] for values, _ in columns], dtype=torch.bfloat16) for side in range(3)]
    found = _average(tensors, [0.5, 0.5, 1.0], "BF16")
    assert found.tolist() == [nearest for _, nearest in columns]


@given(seed=st.integers(0, 2**31), near=st.booleans())
def test_the_mean_of_two_bf16_models_is_the_float64_sum_rounded_once(seed: int, near: bool) -> None:
    """Of any bits, and of values so near to each other that half of the means lie in the middle of two neighbours. A
    third model of weight 0 takes it through float64."""
    bits = np.random.default_rng(seed).integers(0, 2**16, (2, 4096), dtype=np.uint16)
    if near:
        bits[1] = bits[0] ^ (bits[1] & 0xFF)
    first, second = (torch.from_numpy(side.view(np.int16)).view(torch.bfloat16) for side in bits)
    found = _average([first, second], [0.5, 0.5], "BF16")
    expected = _average([first, second, torch.zeros_like(first)], [0.5, 0.5, 0.0], "BF16")
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(1.0), expected.nan_to_num(1.0))


def test_blocks_join_and_what_is_too_large_becomes_infinite() -> None:
    long = torch.arange(2 * BLOCK_ELEMENTS + 3, dtype=torch.float32)
    assert torch.equal(_average([long, long], [0.5, 0.5], "F32"), long)
    large = torch.tensor([60_000.0], dtype=torch.float16)
    assert _average([large, large], [1.5, 0.5], "F16").item() == float("inf")
    most = torch.tensor([torch.finfo(torch.bfloat16).max], dtype=torch.bfloat16)
    assert _average([most, most], [1.5, 0.5], "BF16").item() == float("inf")


def test_weights_are_divided_by_their_sum() -> None:
    assert normalized([1, 3]) == (0.25, 0.75)
    assert normalized([2, -1]) == (2.0, -1.0)
    target = np.empty(4, dtype=np.uint8)
    average_into([np.float32([3]).view(np.uint8)] * 2, normalized([2, -1]), "F32", target)
    assert target.view(np.float32)[0] == 3.0
