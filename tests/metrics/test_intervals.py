"""Intervals against tables, closed forms, a bootstrap, and their own promise: to cover the truth 95% of the time."""

import numpy as np
import pytest

from megatron_k15.metrics import accuracy_interval, paired_difference_interval


def test_wilson_intervals_of_the_literature() -> None:
    """Newcombe 1998, table I, method 3: 81/263, 15/148, 0/20, 1/29."""
    for num_correct, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert accuracy_interval(num_correct, n) == pytest.approx((low, high), abs=5e-5)
    assert accuracy_interval(20, 20)[1] == 1.0


def test_the_paired_interval_by_hand() -> None:
    """98 prompts, 59 gained, 9 lost: p = 60/100, q = 10/100, so 0.5 ± 1.95996 √((0.7 − 0.25)/100) = 0.5 ± 0.131479."""
    before = [False] * 59 + [True] * 9 + [True] * 30
    after = [True] * 59 + [False] * 9 + [True] * 30
    assert paired_difference_interval(before, after) == pytest.approx((0.368521, 0.631479), abs=1e-6)


def test_the_paired_interval_agrees_with_a_bootstrap_over_prompts() -> None:
    """2,000 resamples of 500 prompts, of which 120 gained and 60 lost: ends within 0.008 (0.1 standard errors of the
    percentiles, plus the adjustment's shift of less than 0.001)."""
    before = [False] * 120 + [True] * 60 + [True] * 200 + [False] * 120
    after = [True] * 120 + [False] * 60 + [True] * 200 + [False] * 120
    differences = np.array(after, dtype=float) - np.array(before, dtype=float)
    rng = np.random.default_rng(0)
    means = rng.choice(differences, size=(2_000, len(differences))).mean(axis=1)
    bootstrap = tuple(np.percentile(means, [2.5, 97.5]))
    assert paired_difference_interval(before, after) == pytest.approx(bootstrap, abs=0.008)


def test_the_paired_interval_covers_the_truth() -> None:
    """200 prompts; 30% gained, 15% lost: the true difference is 0.15. 2,000 evaluations: coverage 0.95 ± 4·0.0049."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2_000):
        kind = rng.choice(4, size=200, p=[0.30, 0.15, 0.35, 0.20])
        before, after = (kind == 1) | (kind == 2), (kind == 0) | (kind == 2)
        low, high = paired_difference_interval(before.tolist(), after.tolist())
        covered += low <= 0.15 <= high
    assert abs(covered / 2_000 - 0.95) < 4 * 0.0049


def test_no_change_still_leaves_doubt() -> None:
    low, high = paired_difference_interval([True] * 10, [True] * 10)
    assert low == -high < 0


def test_nothing_to_count_is_refused() -> None:
    with pytest.raises(ValueError, match="n above 0"):
        accuracy_interval(0, 0)
    with pytest.raises(ValueError, match="one verdict per prompt; got 1 and 2"):
        paired_difference_interval([True], [True, False])
