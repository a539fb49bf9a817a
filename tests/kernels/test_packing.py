"""The packing planner: compiled and in Python alike, never over capacity, and as good as best fit is known to be."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_k15.kernels import reference
from megatron_k15.kernels.packing import best_fit


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(0, 120), max_size=40), capacity=st.integers(1, 100))
def test_compiled_and_reference_agree_and_keep_the_rules(lengths: list[int], capacity: int) -> None:
    packs = best_fit(lengths, capacity)
    assert packs == reference.best_fit(lengths, capacity)
    assert sorted(index for pack in packs for index in pack) == list(range(len(lengths)))
    for pack in packs:
        assert len(pack) == 1 or sum(lengths[index] for index in pack) <= capacity
    # Best fit decreasing needs at most 11/9 of the optimum and one more, and no optimum is below the total.
    optimum = -(-sum(min(length, capacity) for length in lengths) // capacity)
    larger = sum(length > capacity / 2 for length in lengths)
    assert len(packs) >= max(optimum, larger)


def test_longest_first_into_the_fullest_pack_with_room() -> None:
    assert best_fit([30, 70, 50, 45, 20], 100) == [[1, 0], [2, 3], [4]]
    assert best_fit([101, 1], 100) == [[0], [1]]
    assert best_fit([], 10) == []


def test_log_normal_lengths_need_no_pack_more_than_their_tokens_do() -> None:
    """100,000 lengths of mean 800 at 32k: no more packs than the total rounded up, and 99.96% full."""
    draws = np.random.default_rng(1).lognormal(np.log(800) - 0.5, 1.0, 100_000)
    lengths = np.clip(draws, 1, 32768).astype(int).tolist()
    packs = best_fit(lengths, 32768)
    assert len(packs) == -(-sum(lengths) // 32768)
    assert sum(lengths) / (len(packs) * 32768) >= 0.9996
