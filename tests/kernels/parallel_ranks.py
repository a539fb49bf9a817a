"""Run by torchrun: the fused losses with the vocabulary or the tokens split over all ranks, against one process.

Every rank computes both and compares. The vocabulary of 19 splits unevenly; the last of four ranks has no column.
"""

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_k15.kernels.cross_entropy import cross_entropy
from megatron_k15.kernels.head import MIN_ROWS
from megatron_k15.kernels.linear_loss import linear_cross_entropy, linear_logprobs, linear_policy_loss
from megatron_k15.kernels.policy_loss import PolicyLoss, Sequences, policy_loss
from tests.kernels.draws import sequences, targets

BOUNDS = [0, 3, 3, 10, 12]
SHAPE = WIDTH, HIDDEN = 19, 4
HELD = 1900, 12
"""So many hidden dimensions, and so wide, that all logits wait in the weight's gradient (kernels/head.py)."""
OPTIONS = {"tau": 0.3, "temperature": 1.3}
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    group = dist.group.WORLD
    for with_reference in (True, False):
        parts = sequences(BOUNDS, seed=0, with_reference=with_reference, with_behaviour=True)
        over_logits(group, parts)
        for rows, min_rows in ((1, 0), (4, 0), (100, 0), (1, 100), (4, 100)):
            # With 100 rows wanted the vocabulary is taken in tiles instead.
            MIN_ROWS["cpu"] = min_rows
            from_hidden_states(group, parts, rows, SHAPE)
            split_tokens(group, parts, rows, SHAPE)
        from_hidden_states(group, parts, 6, HELD)
        split_tokens(group, parts, 2, HELD)
    alone(group)
    dist.destroy_process_group()


def head(shape: tuple[int, int] = SHAPE) -> tuple[Tensor, Tensor]:
    generator, (width, hidden_size) = torch.Generator().manual_seed(1), shape
    sizes = (BOUNDS[-1], width)
    return tuple(torch.randn(size, hidden_size, generator=generator, dtype=torch.float64) for size in sizes)


def columns_of(group: dist.ProcessGroup, width: int = WIDTH) -> tuple[int, int]:
    """This rank's part of the vocabulary: as many columns as fit evenly, rounded up, so that the last rank has few."""
    each = (7 if group.size() > 2 else 10) * width // WIDTH
    start = min(width, each * group.rank())
    return start, min(width, start + each)


def same(found: PolicyLoss, expected: PolicyLoss) -> None:
    for name, value in found._asdict().items():
        torch.testing.assert_close(
            value, getattr(expected, name), **CLOSE, msg=lambda text, name=name: f"{name}: {text}"
        )


def over_logits(group: dist.ProcessGroup, parts: Sequences) -> None:
    hidden, weight = head()
    start, end = columns_of(group)
    columns = targets(BOUNDS[-1], WIDTH, seed=0)
    whole = (hidden @ weight.t()).requires_grad_()
    local = whole.detach()[:, start:end].clone().requires_grad_()
    expected = policy_loss(whole, columns, parts, entropy=True, **OPTIONS)
    found = policy_loss(local, columns, parts, entropy=True, vocabulary_start=start, tensor_group=group, **OPTIONS)
    same(found, expected)
    for result in (expected, found):
        result.loss.backward()
    torch.testing.assert_close(local.grad, whole.grad[:, start:end], **CLOSE)


def from_hidden_states(group: dist.ProcessGroup, parts: Sequences, rows: int, shape: tuple[int, int]) -> None:
    """The gradient of the hidden states is the sum of the ranks' parts; that of the weight is each rank's own."""
    start, end = columns_of(group, shape[0])
    columns = targets(BOUNDS[-1], shape[0], seed=0)
    hidden, weight = (value.requires_grad_() for value in head(shape))
    my_hidden, my_weight = hidden.detach().clone().requires_grad_(), weight.detach()[start:end].clone().requires_grad_()
    expected = linear_policy_loss(hidden, weight, columns, parts, entropy=True, **OPTIONS)
    options = {
        "vocabulary_start": start,
        "tensor_group": group,
        "chunk_bytes": rows * shape[0] * 10 // 19 * 8,
        **OPTIONS,
    }
    found = linear_policy_loss(my_hidden, my_weight, columns, parts, entropy=True, in_place=True, **options)
    same(found, expected)
    for result in (expected, found):
        result.loss.backward()
    dist.all_reduce(my_hidden.grad, group=group)
    torch.testing.assert_close(my_hidden.grad, hidden.grad, **CLOSE)
    torch.testing.assert_close(my_weight.grad, weight.grad[start:end], **CLOSE)
    logprobs = linear_logprobs(
        my_hidden, my_weight, columns, vocabulary_start=start, tensor_group=group, temperature=1.3, chunk_bytes=300
    )
    torch.testing.assert_close(logprobs, expected.logprobs_N, **CLOSE)


def split_tokens(group: dist.ProcessGroup, parts: Sequences, rows: int, shape: tuple[int, int]) -> None:
    """Every second token (or fourth) of each sequence on each rank; s is that of the whole sequence."""
    hidden, weight = (value.requires_grad_() for value in head(shape))
    columns = targets(BOUNDS[-1], shape[0], seed=0)
    mine = torch.arange(group.rank(), BOUNDS[-1], group.size())
    bounds = torch.searchsorted(mine, parts.bounds)
    per_token = (None if value is None else value[mine] for value in parts[:3])
    local = Sequences(*per_token, bounds, *parts[4:])
    my_hidden, my_weight = hidden.detach()[mine].requires_grad_(), weight.detach().clone().requires_grad_()
    expected = linear_policy_loss(hidden, weight, columns, parts, **OPTIONS)
    found = linear_policy_loss(
        my_hidden, my_weight, columns[mine], local, sequence_group=group, chunk_bytes=rows * shape[0] * 8, **OPTIONS
    )
    torch.testing.assert_close(found.log_ratios_S, expected.log_ratios_S, **CLOSE)
    torch.testing.assert_close(found.loss, expected.loss, **CLOSE)
    for result in (expected, found):
        result.loss.backward()
    torch.testing.assert_close(my_hidden.grad, hidden.grad[mine], **CLOSE)
    dist.all_reduce(my_weight.grad, group=group)
    torch.testing.assert_close(my_weight.grad, weight.grad, **CLOSE)
    logits = (hidden.detach() @ weight.detach().t())[mine]
    again = policy_loss(logits, columns[mine], local, sequence_group=group, **OPTIONS)
    torch.testing.assert_close(again.loss, expected.loss, **CLOSE)


def alone(group: dist.ProcessGroup) -> None:
    """Cross entropy."""
    start, end = columns_of(group)
    hidden, weight = head()
    columns, weights = targets(BOUNDS[-1], WIDTH, seed=0), torch.linspace(0, 1, BOUNDS[-1], dtype=torch.float64)
    logits = hidden @ weight.t()
    expected, _ = cross_entropy(logits, columns, weights)
    found, _ = cross_entropy(
        logits[:, start:end].contiguous(), columns, weights, vocabulary_start=start, tensor_group=group
    )
    torch.testing.assert_close(found, expected, **CLOSE)
    linear = linear_cross_entropy(
        hidden, weight[start:end], columns, weights, vocabulary_start=start, tensor_group=group, chunk_bytes=300
    )
    torch.testing.assert_close(linear.loss, expected, **CLOSE)


if __name__ == "__main__":
    main()
