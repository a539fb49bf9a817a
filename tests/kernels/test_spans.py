"""How rows are cut into spans, and the memory they are computed in."""

import pytest
import torch

from megatron_k15.kernels.fresh_memory import LEAST_BYTES, new_memory
from megatron_k15.kernels.spans import whole_sequence_blocks


@pytest.mark.parametrize(
    ("bounds", "blocks"),
    [
        # Ten sequences of 10 rows, at most 40 at a time: 34 rows alike would take four blocks.
        (range(0, 101, 10), [[(0, 40)], [(40, 80)], [(80, 100)]]),
        # Eight fill two.
        (range(0, 81, 10), [[(0, 40)], [(40, 80)]]),
        # Nine of 10: 40, 40 and 10 become three of 30.
        (range(0, 91, 10), [[(0, 30)], [(30, 60)], [(60, 90)]]),
        # A sequence longer than a span has a block of its own.
        ((0, 10, 100, 110), [[(0, 10)], [(10, 40), (40, 70), (70, 100)], [(100, 110)]]),
        ((0,), []),
    ],
)
def test_blocks_hold_whole_sequences_and_are_alike_in_size(bounds, blocks):
    assert whole_sequence_blocks(list(bounds), 40) == blocks


@pytest.mark.parametrize("num_bytes", [0, 4096, LEAST_BYTES + 12_345])
def test_new_memory_is_an_ordinary_tensor(num_bytes):
    fresh = new_memory(torch.empty(0, dtype=torch.uint8), num_bytes)
    assert (fresh.shape, fresh.dtype) == ((num_bytes,), torch.uint8)
    fresh.fill_(7)
    assert bool((fresh == 7).all())
