"""Estimators against brute force and closed forms."""

import random
from itertools import combinations, product
from math import comb
from statistics import fmean

import pytest

from megatron_k15.sampling.accuracy import Judged, accuracies, estimate, majority_at_k, pass_at_k
from megatron_k15.sampling.evaluating import with_one_spelling


def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer():
    for n, k in product(range(1, 8), range(1, 8)):
        for c in range(n + 1):
            if k <= n:
                subsets = list(combinations([True] * c + [False] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(fmean(any(subset) for subset in subsets))
    with pytest.raises(ValueError, match="between 1 and the number of answers, 3"):
        pass_at_k(3, 1, 4)


def test_pass_at_k_is_unbiased():
    """Over all outcomes of n answers that are right with chance p, its mean is 1 - (1 - p)^k."""
    n, k, p = 6, 3, 0.3
    mean = sum(comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
    assert mean == pytest.approx(1 - (1 - p) ** k)


def test_the_majority_decides_and_ties_are_shared():
    right, wrong, other, silent = Judged("7", True), Judged("8", False), Judged("9", False), Judged(None, False)
    assert majority_at_k([right, right, wrong], 3) == 1.0
    assert majority_at_k([right, wrong, wrong], 3) == 0.0
    assert majority_at_k([right, wrong, other, silent], 4) == pytest.approx(1 / 3)
    assert majority_at_k([right, silent, silent], 3) == 1.0, "no answer has no vote"
    assert majority_at_k([silent], 1) == 0.0
    # Of the three pairs {r r}, {r w}, {r w}: 1, 1/2, 1/2.
    assert majority_at_k([right, right, wrong], 2) == pytest.approx(2 / 3)


def test_answers_that_are_equal_are_votes_for_one() -> None:
    spelled = [
        ("0.5", True),
        ("half of one", True),
        ("1/3", False),
        (r"\frac13", False),
        ("0.25", False),
        (None, False),
    ]
    votes = with_one_spelling([Judged(answer, correct) for answer, correct in spelled])
    assert [one.answer for one in votes] == ["0.5", "0.5", "1/3", "1/3", "0.25", None]
    assert [one.correct for one in votes] == [correct for _, correct in spelled]


def test_many_subsets_are_drawn_and_come_close():
    answers = [Judged("7", True)] * 12 + [Judged("8", False)] * 8
    k = 5
    exact = sum(comb(12, right) * comb(8, k - right) for right in range(3, k + 1)) / comb(20, k)
    assert majority_at_k(answers, k) == pytest.approx(exact, abs=0.04)
    assert majority_at_k(answers, k) == majority_at_k(answers, k)


def test_the_interval_is_the_bootstraps_and_covers():
    low_high = estimate([0.0, 1.0] * 200)
    assert low_high.value == 0.5
    # The normal approximation: 1.96 * 0.5 / sqrt(400) = 0.049.
    assert (low_high.low, low_high.high) == (pytest.approx(0.451, abs=0.008), pytest.approx(0.549, abs=0.008))
    rng = random.Random(1)
    covered = 0
    for draw in range(100):
        found = estimate([float(rng.random() < 0.3) for _ in range(100)], seed=draw)
        covered += found.low <= 0.3 <= found.high
    assert covered >= 88
    assert estimate([1.0, 1.0]) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="at least one prompt"):
        estimate([])


def test_all_figures_of_prompts():
    prompts = [[Judged("7", True), Judged("8", False)], [Judged("1", False), Judged("1", False)]]
    found = accuracies(prompts, [2])
    assert {name: one.value for name, one in found.items()} == {"pass@1": 0.25, "pass@2": 0.5, "maj@2": 0.25}
