"""The emulation itself: it finds races, misalignment and skipped barriers, and counts global memory traffic."""

import ctypes

import pytest
import torch

from megatron_k15.kernels import reference
from megatron_k15.kernels.native import operators
from tests.kernels.draws import DTYPES, logits, sequences, targets
from tests.kernels.emulator import EmulationError, Emulator

SEEDS = range(6)


def test_a_missing_barrier_is_found_and_the_right_kernel_is_not_blamed() -> None:
    emulator = Emulator()
    values = torch.rand(64)
    right, racy = set(), set()
    for emulator.seed in SEEDS:
        right.add(emulator.example_sum(values, with_barrier=True))
        racy.add(str(emulator.example_sum(values, with_barrier=False)))
    assert len(right) == 1
    assert right.pop() == pytest.approx(values.sum().item())
    assert "nan" in racy, "a read of shared memory before its write gives NaN"


def test_a_barrier_that_some_threads_skip_is_found() -> None:
    emulator = Emulator()
    with pytest.raises(EmulationError, match="not reached by all of its threads"):
        emulator.example_skipped_barrier()


def test_a_misaligned_pack_is_found() -> None:
    emulator = Emulator()
    values = torch.zeros(9)
    emulator.example_pack(values)
    with pytest.raises(EmulationError, match="aligned to 16 bytes"):
        emulator.example_pack(values[1:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_result_depends_on_the_order_of_threads(dtype: torch.dtype) -> None:
    emulator = Emulator()
    x, columns = logits(2, 1003, dtype, seed=0), targets(2, 1003, seed=0)
    found = []
    for emulator.seed in SEEDS:
        statistics = emulator.softmax_statistics(x, columns, 0.7, True)
        rows = (statistics[0].contiguous(), statistics[1].contiguous(), torch.ones_like(statistics[0]))
        found.append([statistics, emulator.logit_gradient(x, columns, 0.7, *rows)])
    _assert_all_the_same(found)


def test_no_sum_or_group_depends_on_the_order_of_threads() -> None:
    emulator = Emulator()
    bounds = [0, 700, 700, 1000]
    parts = sequences(bounds, seed=0, with_behaviour=True)
    logprobs = torch.randn(1000, dtype=torch.float64) - 3
    lengths, correct = torch.randint(1, 99, (1000,)), torch.rand(1000) < 0.5
    found = []
    for emulator.seed in SEEDS:
        sums = emulator.sequence_sums(logprobs, parts.reference_N, parts.mask_N, parts.bounds)
        rest = (parts.mask_N, parts.bounds, sums, parts.advantages_S, parts.weights_S, 0.1, 2.0)
        terms = emulator.policy_terms(logprobs, parts.behaviour_N, *rest)
        groups = emulator.group_rewards(logprobs, correct, lengths, parts.bounds, 0.5, "log_mean_exp", 0.1)
        found.append([sums, *terms, *groups])
    _assert_all_the_same(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_read_once_forward_and_read_and_written_once_backward(dtype: torch.dtype) -> None:
    """Bytes of global memory per row, against the minimum: the row itself, and a few numbers of its own."""
    emulator = Emulator()
    num_rows, width = 3, 4099
    x, columns = logits(num_rows, width, dtype, seed=0), targets(num_rows, width, seed=0)
    row_bytes, number = width * dtype.itemsize, 4
    emulator.take_counts()
    statistics = emulator.softmax_statistics(x, columns, 1.0, False)
    # Target id, and the logit at the target once more.
    assert emulator.take_counts() == (num_rows * (row_bytes + 8 + dtype.itemsize), num_rows * 3 * number)
    rows = (statistics[0].contiguous(), statistics[1].contiguous(), torch.ones(num_rows))
    emulator.logit_gradient_(x, columns, 1.0, *rows)
    # Target id, maximum, sum, coefficient: every thread asks, and a GPU's caches answer all but the first.
    asked = 512 * (8 + 3 * number)
    assert emulator.take_counts() == (num_rows * (row_bytes + asked), num_rows * row_bytes)


def test_offsets_pass_32_bits() -> None:
    """A row 2^31 elements away: only the pages that are touched exist."""
    emulator = Emulator()
    stride, width = 2**31 + 16, 24
    address = _reserve(2 * (stride + width))
    x = torch.frombuffer((ctypes.c_char * (2 * (stride + width))).from_address(address), dtype=torch.bfloat16)
    x = x.as_strided((2, width), (stride, 1))
    values = logits(2, width, torch.bfloat16, seed=0)
    x.copy_(values)
    columns = targets(2, width, seed=0)
    found = emulator.softmax_statistics(x, columns, 1.0, False)
    torch.testing.assert_close(found, reference.softmax_statistics(values, columns, 1.0, False))
    compiled = operators(x).softmax_statistics(x, columns, 1.0, False)
    torch.testing.assert_close(compiled, found)


def _reserve(num_bytes: int) -> int:
    """Address of memory that takes no page until it is touched."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    read_write, private_anonymous_noreserve = 3, 0x2 | 0x20 | 0x4000
    address = libc.mmap(None, num_bytes, read_write, private_anonymous_noreserve, -1, 0)
    assert address not in (None, ctypes.c_void_p(-1).value), "mmap"
    return address


def _assert_all_the_same(found: list[list[torch.Tensor]]) -> None:
    for others in found[1:]:
        for first, other in zip(found[0], others, strict=True):
            assert torch.equal(first, other)
