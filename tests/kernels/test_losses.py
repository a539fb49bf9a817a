"""The fused losses: gradients by finite differences, every result against autograd over plain PyTorch, the same bits
again.

fp64 on the CPU is exact enough for finite differences; the other dtypes are compared with the fp64 reference on the
same (rounded) inputs.
"""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from megatron_k15.kernels.cross_entropy import cross_entropy
from megatron_k15.kernels.head import MIN_ROWS, HeadPass, Wait
from megatron_k15.kernels.linear_loss import linear_cross_entropy, linear_logprobs, linear_policy_loss
from megatron_k15.kernels.policy_loss import PolicyLoss, Sequences, policy_loss
from megatron_k15.kernels.reference_loss import cross_entropy_reference, policy_loss_reference
from tests.kernels.draws import DTYPES, bounds_of, logits, sequences, targets

HIDDEN, WIDTH = 3, 9
BOUNDS = [0, 2, 2, 6, 7]
ROWS = BOUNDS[-1]
MORE = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
OPTIONS = {"tau": 0.3, "temperature": 1.3}


def _head(dtype: torch.dtype = torch.float64, num_rows: int = BOUNDS[-1]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((num_rows, HIDDEN), (WIDTH, HIDDEN))
    return tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes
    )


@pytest.mark.parametrize("function", [policy_loss, policy_loss_reference])
@pytest.mark.parametrize("with_reference", [True, False])
def test_gradcheck_over_logits(function: Callable[..., PolicyLoss], with_reference: bool) -> None:
    """Without a reference the loss is the constant 0 with the gradient at s = 0, which finite differences cannot see:
    there the gradient is that of the loss with the present logprobs as reference."""
    x = logits(ROWS, WIDTH, torch.float64, seed=0).requires_grad_()
    columns, parts = targets(ROWS, WIDTH, seed=0), sequences(BOUNDS, seed=0)
    if not with_reference:
        here = function(x, columns, parts, **OPTIONS).logprobs_N.detach()
        loss = function(x, columns, parts._replace(reference_N=None), **OPTIONS).loss
        (found,) = torch.autograd.grad(loss, x)
        (wanted,) = torch.autograd.grad(function(x, columns, parts._replace(reference_N=here), **OPTIONS).loss, x)
        assert loss == 0
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
        assert found.abs().max() > 1e-3
        return
    assert gradcheck(lambda x: function(x, columns, parts, **OPTIONS).loss, (x,))


@pytest.mark.parametrize(("rows_at_once", "tiled"), [(1, False), (3, False), (4, False), (100, False), (3, True)])
def test_gradcheck_from_hidden_states(rows_at_once: int, tiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that cut sequences, that hold some whole, that hold all; tiles of the vocabulary."""
    monkeypatch.setitem(MIN_ROWS, "cpu", 100 if tiled else 0)
    hidden, weight = _head()
    columns, parts = targets(ROWS, WIDTH, seed=0), sequences(BOUNDS, seed=0)
    options = {**OPTIONS, "chunk_bytes": rows_at_once * WIDTH * 8}
    assert gradcheck(
        lambda hidden, weight: linear_policy_loss(hidden, weight, columns, parts, **options).loss, (hidden, weight)
    )


def test_gradcheck_of_cross_entropy() -> None:
    x, columns = logits(5, WIDTH, torch.float64, seed=2).requires_grad_(), targets(5, WIDTH, seed=2)
    weights = torch.tensor([0.2, 0.0, 0.5, 0.1, 0.2], dtype=torch.float64)
    assert gradcheck(lambda x: cross_entropy(x, columns, weights)[0], (x,))
    assert gradcheck(lambda x: cross_entropy_reference(x, columns, weights), (x,))
    hidden, weight = _head(num_rows=5)
    assert gradcheck(
        lambda *head: linear_cross_entropy(*head, columns, weights, chunk_bytes=2 * WIDTH * 8).loss, (hidden, weight)
    )


@MORE
@given(
    bounds=bounds_of(),
    dtype=st.sampled_from(DTYPES),
    width=st.sampled_from((1, 5, 40)),
    seed=st.integers(0, 50),
    given_reference=st.booleans(),
    behaviour=st.booleans(),
    in_loss=st.sampled_from((0.0, 0.7)),
    in_place=st.booleans(),
)
def test_over_logits_equals_autograd(
    bounds: list[int],
    dtype: torch.dtype,
    width: int,
    seed: int,
    given_reference: bool,
    behaviour: bool,
    in_loss: float,
    in_place: bool,
) -> None:
    parts = sequences(bounds, seed=seed, with_reference=given_reference, with_behaviour=behaviour, in_loss=in_loss)
    start = logits(bounds[-1], width, dtype, seed=seed)
    columns = targets(bounds[-1], width, seed=seed)
    ours, theirs = start.clone().requires_grad_(), start.double().requires_grad_()
    # In place the very logits are overwritten: a leaf's own memory would be taken from under it.
    found = policy_loss(ours * 1, columns, parts, entropy=True, in_place=in_place, importance_clip=1.5, **OPTIONS)
    expected = policy_loss_reference(theirs, columns, parts, importance_clip=1.5, **OPTIONS)
    _assert_same(found, expected, dtype)
    (found.loss * 3).backward()
    (expected.loss * 3).backward()
    _assert_gradient(ours.grad, theirs.grad, dtype)


@MORE
@given(
    bounds=bounds_of(),
    dtype=st.sampled_from((torch.float32, torch.float64, torch.bfloat16)),
    rows_at_once=st.sampled_from((1, 3, 7, 100)),
    seed=st.integers(0, 50),
    given_reference=st.booleans(),
    behaviour=st.booleans(),
    in_place=st.booleans(),
    tiled=st.booleans(),
)
def test_from_hidden_states_equals_autograd(
    bounds: list[int],
    dtype: torch.dtype,
    rows_at_once: int,
    seed: int,
    given_reference: bool,
    behaviour: bool,
    in_place: bool,
    tiled: bool,
) -> None:
    parts = sequences(bounds, seed=seed, with_reference=given_reference, with_behaviour=behaviour)
    ours, theirs = (
        _head(dtype, bounds[-1]),
        [value.detach().double().requires_grad_() for value in _head(dtype, bounds[-1])],
    )
    columns = targets(bounds[-1], WIDTH, seed=seed)
    options = {**OPTIONS, "entropy": True, "in_place": in_place, "chunk_bytes": rows_at_once * WIDTH * dtype.itemsize}
    with mock.patch.dict(MIN_ROWS, cpu=100 if tiled else 0):
        found = linear_policy_loss(*ours, columns, parts, **options)
    product = torch.nn.functional.linear(*theirs)
    expected = policy_loss_reference(product, columns, parts, **OPTIONS)
    if dtype == torch.bfloat16:
        # The logits are rounded to bf16 first: of up to 8, by up to 2^-6 each.
        torch.testing.assert_close(found.logprobs_N.double(), expected.logprobs_N, rtol=0, atol=2**-5)
    else:
        _assert_same(found, expected, dtype)
    (found.loss * 2).backward()
    (expected.loss * 2).backward()
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        scale = max(1e-3, other.grad.abs().max()) if other.grad.numel() else 1.0
        limit = {torch.float32: 2e-5, torch.float64: 1e-11, torch.bfloat16: 0.05}[dtype]
        assert one.grad.shape == other.grad.shape
        assert ((one.grad.double() - other.grad).abs() <= limit * scale).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden_size", [ROWS, ROWS + 1, 3 * ROWS])
@pytest.mark.parametrize("with_reference", [True, False])
def test_logits_that_wait_in_the_weights_gradient(
    dtype: torch.dtype, hidden_size: int, with_reference: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many rows as hidden dimensions leave no room between a tile's gradient and the next one's logits."""
    width, generator = 2000, torch.Generator().manual_seed(3)
    shapes = ((ROWS, hidden_size), (width, hidden_size))
    start = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    ours = [value.clone().requires_grad_() for value in start]
    theirs = [value.double().requires_grad_() for value in start]
    columns, parts = targets(ROWS, width, seed=0), sequences(BOUNDS, seed=0)
    held: list[int] = []
    logits_again = HeadPass._logits_again

    def noted(self: HeadPass, span: tuple[int, int], tile: tuple[int, int], waited: bool) -> Tensor:
        assert self._wait is Wait.WEIGHT_GRADIENT
        held.append(tile[1] - tile[0])
        return logits_again(self, span, tile, waited)

    monkeypatch.setattr(HeadPass, "_logits_again", noted)
    monkeypatch.setitem(MIN_ROWS, "cpu", 0)
    options = {"tau": 0.3, "chunk_bytes": (ROWS - 2) * width * dtype.itemsize}
    given_parts = parts if with_reference else parts._replace(reference_N=None)
    found = linear_policy_loss(*ours, columns, given_parts, in_place=True, **options)
    found.loss.backward()
    assert sum(held) == width
    assert len(held) > 2
    product = torch.nn.functional.linear(*theirs)
    if not with_reference:  # the gradient at s = 0
        here = policy_loss_reference(product, columns, parts, tau=0.3).logprobs_N.detach()
        parts = parts._replace(reference_N=here)
    policy_loss_reference(product, columns, parts, tau=0.3).loss.backward()
    limit = {torch.float32: 2e-5, torch.float64: 1e-11, torch.bfloat16: 0.05}[dtype]
    for one, other in zip(ours, theirs, strict=True):
        assert ((one.grad.double() - other.grad).abs() <= limit * other.grad.abs().max()).all()


@pytest.mark.parametrize("tiled", [False, True])
def test_logprobs_alone(tiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIN_ROWS, "cpu", 100 if tiled else 0)
    hidden, weight = _head()
    columns = targets(ROWS, WIDTH, seed=0)
    found = linear_logprobs(hidden, weight, columns, temperature=0.7, chunk_bytes=5 * WIDTH * 8)
    expected = (torch.nn.functional.linear(hidden, weight) / 0.7).log_softmax(-1).gather(1, columns[:, None]).squeeze(1)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
    assert not found.requires_grad


def test_only_what_requires_a_gradient_gets_one() -> None:
    hidden, weight = _head()
    columns, parts = targets(ROWS, WIDTH, seed=0), sequences(BOUNDS, seed=0)
    linear_policy_loss(hidden, weight.detach(), columns, parts, in_place=True, **OPTIONS).loss.backward()
    assert hidden.grad is not None
    with torch.no_grad():
        assert not linear_policy_loss(hidden, weight, columns, parts, **OPTIONS).loss.requires_grad


@pytest.mark.parametrize("over_logits", [True, False])
def test_in_place_allows_one_backward_pass(over_logits: bool) -> None:
    hidden, weight = _head()
    columns, parts = targets(ROWS, WIDTH, seed=0), sequences(BOUNDS, seed=0)
    if over_logits:
        loss = policy_loss(torch.nn.functional.linear(hidden, weight), columns, parts, in_place=True, tau=0.1).loss
    else:
        loss = linear_policy_loss(hidden, weight, columns, parts, in_place=True, tau=0.1).loss
    loss.backward(retain_graph=True)
    with pytest.raises((RuntimeError, AttributeError)):
        loss.backward()


def test_the_backward_pass_in_place_takes_no_memory_of_its_own() -> None:
    x = logits(ROWS, WIDTH, torch.float32, seed=0)
    leaf = x.clone().requires_grad_()
    inner = leaf * 1
    gradients: list[int] = []
    inner.register_hook(lambda gradient: gradients.append(gradient.data_ptr()))
    policy_loss(inner, targets(ROWS, WIDTH, seed=0), sequences(BOUNDS, seed=0), in_place=True, tau=0.1).loss.backward()
    assert gradients == [inner.data_ptr()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_in_every_run(dtype: torch.dtype) -> None:
    """Rows enough for several threads and chunks."""
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(200, 32, generator=generator).to(dtype)
    weight = torch.randn(500, 32, generator=generator).to(dtype)
    columns, parts = targets(200, 500, seed=0), sequences([0, 90, 200], seed=0)
    first, second = (_run(hidden, weight, columns, parts) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def _run(hidden: Tensor, weight: Tensor, columns: Tensor, parts: Sequences) -> list[Tensor]:
    leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    found = linear_policy_loss(*leaves, columns, parts, chunk_bytes=30_000, entropy=True, **OPTIONS)
    found.loss.backward()
    return [*(value.detach() for value in found), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def test_compiles_and_keeps_the_operators_contract() -> None:
    """opcheck: schema, fake tensors, autograd registration, and tracing under torch.compile's own front end."""
    x, columns = logits(ROWS, WIDTH, torch.float32, seed=0).requires_grad_(), targets(ROWS, WIDTH, seed=0)
    parts = sequences(BOUNDS, seed=0, with_behaviour=True).to(torch.float32)
    torch.library.opcheck(torch.ops.megatron_k15.policy_loss.default, (x, columns, *parts, 0.3, 2.0, 1.0, "", "", True))
    head = [value.detach().requires_grad_() for value in _head(torch.float32)]
    inputs = (*head, columns, *parts, 0.3, 2.0, 1.0, "", "", True, 500, True, True)
    torch.library.opcheck(torch.ops.megatron_k15.linear_policy_loss.default, inputs)
    weights = torch.ones(ROWS)
    torch.library.opcheck(torch.ops.megatron_k15.cross_entropy.default, (x, columns, weights, ""))
    inputs = (*head, columns, weights, "", None, True, True)
    torch.library.opcheck(torch.ops.megatron_k15.linear_cross_entropy.default, inputs)
    statistics = torch.ops.k15.softmax_statistics(x.detach(), columns, 1.0, True)
    torch.library.opcheck(torch.ops.k15.softmax_statistics.default, (x.detach(), columns, 1.0, True))
    rows = (columns, 1.0, statistics[0].contiguous(), statistics[1].contiguous(), weights)
    torch.library.opcheck(torch.ops.k15.logit_gradient.default, (x.detach(), *rows))
    torch.library.opcheck(torch.ops.k15.logit_gradient_.default, (x.detach().clone(), *rows))


@pytest.mark.parametrize(("backend", "tolerance"), [("aot_eager", 0.0), ("inductor", 1e-6)])
def test_works_under_torch_compile(backend: str, tolerance: float) -> None:
    """Inductor's exponential, of the step around the loss, is its own."""
    x, columns = logits(ROWS, WIDTH, torch.float32, seed=0), targets(ROWS, WIDTH, seed=0)
    parts = sequences(BOUNDS, seed=0)

    def step(x: Tensor) -> Tensor:
        return policy_loss(x.exp(), columns, parts, tau=0.3).loss * 2

    eager, traced = x.clone().requires_grad_(), x.clone().requires_grad_()
    step(eager).backward()
    torch.compile(step, backend=backend, fullgraph=True)(traced).backward()
    torch.testing.assert_close(traced.grad, eager.grad, rtol=tolerance, atol=tolerance)


def _assert_same(found: PolicyLoss, expected: PolicyLoss, dtype: torch.dtype) -> None:
    tolerance = 1e-11 if dtype == torch.float64 else 2e-4
    for name, value in found._asdict().items():
        wanted = getattr(expected, name).detach()
        assert value.shape == wanted.shape, name
        torch.testing.assert_close(value.detach().double(), wanted, rtol=tolerance, atol=tolerance, msg=name)


def _assert_gradient(found: Tensor | None, expected: Tensor | None, dtype: torch.dtype) -> None:
    assert found is not None
    assert expected is not None
    limit = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2**-8, torch.float16: 2**-9}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=limit * 4, atol=limit)
