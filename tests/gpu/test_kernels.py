"""What only a GPU can show: the compiled CUDA kernels against plain PyTorch, their determinism, and real sizes."""

import pytest
import torch

from megatron_k15.kernels import native, reference
from megatron_k15.kernels.groups import group_rewards
from megatron_k15.kernels.linear_loss import linear_policy_loss
from megatron_k15.kernels.policy_loss import policy_loss
from megatron_k15.kernels.reference_loss import policy_loss_reference
from tests.kernels.draws import DTYPES, WIDTHS, logits, sequences, targets

BOUNDS = [0, 3, 3, 10, 12]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [*WIDTHS, 151_936])
def test_logits_forward_and_backward(dtype: torch.dtype, width: int) -> None:
    """Every offset of a row from a 16-byte boundary comes up: the rows are views into a wider tensor."""
    whole = torch.zeros(5, width + 3, dtype=dtype, device="cuda")
    x = whole[:, 3:]
    x.copy_(logits(5, width, dtype, seed=0))
    columns = targets(5, width, seed=0, outside=2).cuda()
    found = torch.ops.k15.softmax_statistics(x, columns, 0.8, True)
    expected = reference.softmax_statistics(x, columns, 0.8, True)
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
    rows = (columns, 0.8, expected[0].contiguous(), expected[1].contiguous(), torch.linspace(-1, 1, 5).to(expected))
    wanted = reference.logit_gradient(x, *rows)
    limit = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 2**-7, torch.float16: 2**-9}[dtype]
    torch.testing.assert_close(torch.ops.k15.logit_gradient(x, *rows), wanted, rtol=limit, atol=limit * 1e-2)
    torch.ops.k15.logit_gradient_(x, *rows)
    torch.testing.assert_close(x, wanted, rtol=limit, atol=limit * 1e-2)
    assert (whole[:, :3] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_policy_loss(dtype: torch.dtype) -> None:
    parts = type(sequences(BOUNDS, seed=0))(*(value.cuda() for value in sequences(BOUNDS, seed=0, with_behaviour=True)))
    ours = logits(12, 1003, dtype, seed=0).cuda().requires_grad_()
    theirs = ours.detach().double().requires_grad_()
    columns = targets(12, 1003, seed=0).cuda()
    found = policy_loss(ours, columns, parts, tau=0.3, temperature=1.3, entropy=True)
    expected = policy_loss_reference(theirs, columns, parts, tau=0.3, temperature=1.3)
    for name, value in found._asdict().items():
        torch.testing.assert_close(value.double(), getattr(expected, name), rtol=1e-4, atol=1e-4, msg=name)
    found.loss.backward()
    expected.loss.backward()
    limit = 2**-7 if dtype.itemsize == 2 else 1e-5
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=limit, atol=limit)


@pytest.mark.parametrize(("num_rows", "rows_at_once"), [(1000, 3), (1000, 1000), (60, 30)])
def test_from_hidden_states_the_same_bits_in_every_run(num_rows: int, rows_at_once: int) -> None:
    """In tiles, in one chunk, and, with no more rows than hidden dimensions, held in the weight's gradient."""
    given = sequences([0, num_rows * 7 // 10, num_rows], seed=0)
    parts = type(given)(*(None if value is None else value.cuda() for value in given))
    hidden, weight = (torch.randn(rows, 64, device="cuda").bfloat16() for rows in (num_rows, 5000))
    columns = targets(num_rows, 5000, seed=0).cuda()
    runs = []
    for _ in range(3):
        leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        found = linear_policy_loss(*leaves, columns, parts, tau=0.1, chunk_bytes=rows_at_once * 10_000)
        found.loss.backward()
        runs.append([found.loss.detach(), found.logprobs_N, *(leaf.grad for leaf in leaves)])
    for other in runs[1:]:
        for first, value in zip(runs[0], other, strict=True):
            assert torch.equal(first, value)


def test_group_rewards() -> None:
    rewards, lengths = torch.randn(140, dtype=torch.float64), torch.randint(1, 999, (140,))
    correct, offsets = rewards > 0, torch.tensor([0, 1, 1, 9, 140])
    options = {"length_weight": 0.5, "baseline": "log_mean_exp", "tau": 0.1}
    found = group_rewards(rewards.cuda(), correct.cuda(), lengths.cuda(), offsets.cuda(), **options)
    wanted = reference.group_rewards(rewards, correct, lengths, offsets, 0.5, "log_mean_exp", 0.1)
    for value, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(value.cpu(), expected, rtol=1e-12, atol=1e-12)


def test_more_than_2_to_the_31_logits() -> None:
    x = torch.zeros(15_000, 151_936, dtype=torch.bfloat16, device="cuda")
    x[-1, 7] = 5.0
    columns = torch.full((15_000,), 7, device="cuda")
    found = torch.ops.k15.softmax_statistics(x, columns, 1.0, False)
    assert found[0, -1] == 5.0
    assert found[1, 0] == 151_936
    assert native.library() is not None
