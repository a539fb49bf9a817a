"""Each operator, compiled for every instruction set and emulated from its CUDA source, against plain PyTorch.

Tolerances: fp32 arithmetic over rows of up to 1,003 numbers; a narrower gradient may round the other way, so that one
unit in the last place of its own size is allowed.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_k15.kernels import native, reference
from tests.kernels.draws import DTYPES, WIDTHS, bounds_of, logits, sequences, targets
from tests.kernels.emulator import Emulator

IMPLEMENTATIONS = ("avx512", "avx2", "portable", "emulated", "emulated, permuted")
MORE = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
LAST_PLACE = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 2**-8, torch.float16: 2**-10}


@pytest.fixture(params=IMPLEMENTATIONS, scope="module")
def operators(request: pytest.FixtureRequest) -> Iterator[Any]:
    """What stands in for `torch.ops.k15`."""
    if request.param.startswith("emulated"):
        emulator = Emulator()
        emulator.seed = 7 if "permuted" in request.param else 0
        yield emulator
        return
    library = native.library()
    assert library is not None, "run `make kernels`"
    before = library.instructions()
    if not library.choose_instructions(request.param):
        pytest.skip(f"this CPU has no {request.param}")
    yield torch.ops.k15
    assert library.choose_instructions(before)


@MORE
@given(
    num_rows=st.integers(0, 4),
    width=st.sampled_from(WIDTHS),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    scale=st.sampled_from((0.1, 4.0, 300.0)),
    hidden=st.sampled_from((0.0, 0.5)),
)
def test_logits_forward_and_backward(
    operators: Any, num_rows: int, width: int, dtype: torch.dtype, seed: int, scale: float, hidden: float
) -> None:
    x = logits(num_rows, width, dtype, seed=seed, scale=scale, hidden=hidden)
    columns = targets(num_rows, width, seed=seed, outside=2)
    found = operators.softmax_statistics(x, columns, 0.8, True)
    expected = reference.softmax_statistics(x, columns, 0.8, True)
    close = {"rtol": 3e-6, "atol": 1e-5} if dtype != torch.float64 else {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(operators.softmax_statistics(x, columns, 0.8, False), expected[:3], **close)
    coefficients = torch.linspace(-1, 1, num_rows, dtype=expected.dtype)
    inputs = (columns, 0.8, expected[0].contiguous(), expected[1].contiguous(), coefficients)
    gradient, wanted = operators.logit_gradient(x, *inputs), reference.logit_gradient(x, *inputs)
    torch.testing.assert_close(gradient, wanted, rtol=4 * LAST_PLACE[dtype], atol=max(1e-7, LAST_PLACE[dtype] * 1e-3))
    operators.logit_gradient_(x, *inputs)
    assert torch.equal(x, gradient), "in place and out of place must be the same bits"


@MORE
@given(bounds=bounds_of(), seed=st.integers(0, 99), in_loss=st.sampled_from((0.0, 0.7, 1.0)), behaviour=st.booleans())
def test_terms_of_sequences(operators: Any, bounds: list[int], seed: int, in_loss: float, behaviour: bool) -> None:
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-13)):
        parts = sequences(bounds, seed=seed, in_loss=in_loss, with_behaviour=behaviour).to(dtype)
        logprobs = torch.randn(bounds[-1], generator=torch.Generator().manual_seed(seed)).to(dtype) - 3
        sums = operators.sequence_sums(logprobs, parts.reference_N, parts.mask_N, parts.bounds)
        expected = reference.sequence_sums(logprobs, parts.reference_N, parts.mask_N, parts.bounds)
        torch.testing.assert_close(sums, expected, rtol=tolerance, atol=tolerance)
        rest = (parts.behaviour_N, parts.mask_N, parts.bounds, expected, parts.advantages_S, parts.weights_S, 0.3, 1.5)
        for value, wanted in zip(
            operators.policy_terms(logprobs, *rest), reference.policy_terms(logprobs, *rest), strict=True
        ):
            torch.testing.assert_close(value, wanted, rtol=tolerance, atol=tolerance)


@MORE
@given(
    offsets=bounds_of(max_tokens=140),
    seed=st.integers(0, 99),
    baseline=st.sampled_from(("mean", "log_mean_exp")),
    same_lengths=st.booleans(),
)
def test_groups(operators: Any, offsets: list[int], seed: int, baseline: str, same_lengths: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = offsets[-1]
    lengths = torch.randint(1, 2 if same_lengths else 2000, (count,), generator=generator)
    correct = torch.rand(count, generator=generator) < 0.5
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-13)):
        rewards = torch.randn(count, generator=generator).to(dtype)
        inputs = (rewards, correct, lengths, torch.tensor(offsets), 0.5, baseline, 0.1)
        for value, wanted in zip(operators.group_rewards(*inputs), reference.group_rewards(*inputs), strict=True):
            torch.testing.assert_close(value, wanted, rtol=tolerance, atol=tolerance)


def test_one_sequence_of_the_whole_batch(operators: Any) -> None:
    parts = sequences([0, 3000], seed=0).to(torch.float32)
    logprobs = torch.randn(3000) - 3
    sums = operators.sequence_sums(logprobs, parts.reference_N, parts.mask_N, parts.bounds)
    expected = ((logprobs.double() - parts.reference_N.double()) * parts.mask_N).sum()
    assert sums.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_row_may_be_misaligned(operators: Any, dtype: torch.dtype) -> None:
    """A view whose rows start anywhere, between sentinels that must stay."""
    whole = torch.full((3, 151), 99.0, dtype=dtype)
    for offset in range(1, 9):
        whole.fill_(99.0)
        x = whole[:, offset : offset + 137]
        x.copy_(logits(3, 137, dtype, seed=offset))
        columns = targets(3, 137, seed=offset)
        dense = x.clone()
        found = operators.softmax_statistics(x, columns, 1.0, False)
        assert torch.equal(found[0], dense.to(found.dtype).amax(-1))
        inputs = (columns, 1.0, found[0].contiguous(), found[1].contiguous(), torch.ones_like(found[0]))
        wanted = reference.logit_gradient(dense, *inputs)
        operators.logit_gradient_(x, *inputs)
        torch.testing.assert_close(x, wanted, rtol=4 * LAST_PLACE[dtype], atol=max(1e-7, LAST_PLACE[dtype] * 1e-3))
        assert (whole[:, :offset] == 99).all()
        assert (whole[:, offset + 137 :] == 99).all()


@pytest.mark.parametrize("place", [0, 5, 136])
def test_nan_is_reported_and_stays_in_its_row(operators: Any, place: int) -> None:
    x = logits(3, 137, torch.float32, seed=0)
    x[1, place] = torch.nan
    columns = torch.tensor([3, 3, 3])
    highest, sums, at_target = operators.softmax_statistics(x, columns, 1.0, False)
    logprobs = at_target - highest - sums.log()
    assert torch.equal(logprobs.isnan(), torch.tensor([False, True, False]))
    inputs = (columns, 1.0, highest.contiguous(), sums.contiguous())
    gradient = operators.logit_gradient(x, *inputs, torch.ones(3))
    assert torch.equal(gradient.isnan().any(1), torch.tensor([False, True, False]))
    # Outside the loss it is not even looked at.
    outside = operators.logit_gradient(x, *inputs, torch.tensor([1.0, 0.0, 1.0]))
    assert (outside[1] == 0).all()


def test_extreme_logits(operators: Any) -> None:
    """fp32's largest numbers, and probability 1 on one column of many -inf."""
    x = torch.tensor([[3e38, -3e38, 0.0], [-torch.inf, 2.0, -torch.inf], [-1e4, -1e4 - 1, -1e4]])
    found = operators.softmax_statistics(x, torch.tensor([0, 1, 0]), 1.0, True)
    logprobs = found[2] - found[0] - found[1].log()
    expected = x.double().log_softmax(-1)[torch.arange(3), torch.tensor([0, 1, 0])]
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-6, atol=1e-6)
    entropies = found[1].log() - found[3] / found[1]
    torch.testing.assert_close(entropies[:2], torch.zeros(2), rtol=0, atol=1e-6)


def test_a_part_of_minus_infinities_adds_nothing(operators: Any) -> None:
    """What a tensor rank whose columns are all hidden has to give: max -inf, sum 0, and no NaN."""
    x = torch.full((1, 40), -torch.inf)
    found = operators.softmax_statistics(x, torch.tensor([-1]), 1.0, True)
    assert found[:, 0].tolist() == [-torch.inf, 0.0, 0.0, 0.0]


def test_small_probabilities_keep_their_digits(operators: Any) -> None:
    """Columns from 0 down to -80: each probability to five digits of its own, against fp64."""
    x, columns = torch.linspace(-80, 0, 161)[None], torch.tensor([-1])
    found = operators.softmax_statistics(x, columns, 1.0, False)
    inputs = (columns, 1.0, found[0].contiguous(), found[1].contiguous(), torch.ones(1))
    gradient = operators.logit_gradient(x, *inputs)
    torch.testing.assert_close(gradient.double(), -x.double().softmax(-1), rtol=5e-6, atol=0)
