"""Which way `Plan.of` takes."""

import pytest
import torch

from megatron_k15.kernels.head import MIN_ROWS, Head, Plan, Wait

WIDTH = 1000


@pytest.mark.parametrize(
    ("num_rows", "hidden_size", "min_rows", "gradients", "wait"),
    [
        (10, 8, 0, True, Wait.BUFFER),
        # All rows fit: whatever else there would be room for.
        (10, 16, 11, True, Wait.BUFFER),
        (11, 11, 0, True, Wait.WEIGHT_GRADIENT),
        # One row more than the weight's gradient has room for.
        (12, 11, 0, True, Wait.BUFFER),
        (12, 11, 11, True, Wait.NOWHERE),
        (105, 16, 11, True, Wait.NOWHERE),
        # The budget for the hidden gradient: 40,000 bytes / 3 / (120 x (4 + 4)) = 13 rows.
        (13, 120, 0, True, Wait.WEIGHT_GRADIENT),
        (14, 120, 0, True, Wait.BUFFER),
        # Without a gradient nothing waits.
        (10, 8, 0, False, Wait.NOWHERE),
        (11, 11, 0, False, Wait.NOWHERE),
    ],
)
def test_where_logits_wait(
    num_rows: int, hidden_size: int, min_rows: int, gradients: bool, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget of ten whole rows."""
    monkeypatch.setitem(MIN_ROWS, "cpu", min_rows)
    plan = Plan.of(_head(num_rows, hidden_size, gradients), 10 * WIDTH * 4)
    assert plan.wait is wait
    if wait is Wait.WEIGHT_GRADIENT:
        assert plan.max_rows == num_rows


def _head(num_rows: int, hidden_size: int, gradients: bool) -> Head:
    hidden, weight = torch.zeros(num_rows, hidden_size), torch.zeros(WIDTH, hidden_size)
    return Head(hidden, weight, torch.zeros(num_rows, dtype=torch.long), 1.0, "", False, gradients, gradients)
