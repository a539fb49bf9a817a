"""How good a model's sampled answers are: pass@k, maj@k, and how far to trust the numbers.

Every figure is a mean over prompts. Its 95% interval is the bootstrap's, over prompts: answers to one prompt are not
independent of one another, prompts are.

Legend: P prompts, n answers to each, c of them right.
"""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import comb
from statistics import fmean
from typing import NamedTuple

import numpy as np

NUM_RESAMPLES = 2000
MAX_VOTES = 1000
"""Subsets of a prompt's answers that are put to the vote: all, where there are no more."""


class Estimate(NamedTuple):
    value: float
    low: float
    high: float


class Judged(NamedTuple):
    """One answer to a prompt, as it is voted on."""

    answer: str | None
    """What it comes down to; None has no vote."""
    correct: bool


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that of k answers drawn without replacement from n, of which c are right, at least one is right: the
    unbiased estimate of Chen et al. 2021 (Codex), 1 - C(n - c, k) / C(n, k).

    Raises:
        ValueError: not 1 <= k <= n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and the number of answers, {n}; got {k}")
    return 1.0 - comb(n - c, k) / comb(n, k)


def majority_at_k(answers: Sequence[Judged], k: int, *, seed: int = 0) -> float:
    """The chance that the most frequent answer among k drawn without replacement is right; of equally frequent ones
    each is taken alike. Over all subsets where there are at most `MAX_VOTES`, else over so many drawn ones."""
    if comb(len(answers), k) <= MAX_VOTES:
        subsets = list(combinations(answers, k))
    else:
        rng = random.Random(seed)
        subsets = [tuple(rng.sample(list(answers), k)) for _ in range(MAX_VOTES)]
    return fmean(_vote(subset) for subset in subsets)


def _vote(answers: Sequence[Judged]) -> float:
    votes = Counter(one.answer for one in answers if one.answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    right = {one.answer: one.correct for one in answers}
    return fmean(right[answer] for answer, count in votes.items() if count == most)


def estimate(values_P: Sequence[float], *, seed: int = 0) -> Estimate:
    """Their mean with the bootstrap's percentile interval.

    Raises:
        ValueError: no values.
    """
    if not values_P:
        raise ValueError("an estimate needs at least one prompt")
    values = np.asarray(values_P, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(values), size=(NUM_RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high))


def accuracies(prompts: Sequence[Sequence[Judged]], ks: Sequence[int], *, seed: int = 0) -> dict[str, Estimate]:
    """`pass@1`, and `pass@k` and `maj@k` for each k above 1.

    Args:
        prompts: [P] of n answers each.
    """
    found = {}
    for k in sorted({1, *ks}):
        passes = [pass_at_k(len(answers), sum(one.correct for one in answers), k) for answers in prompts]
        found[f"pass@{k}"] = estimate(passes, seed=seed)
        if k > 1:
            votes = [majority_at_k(answers, k, seed=seed) for answers in prompts]
            found[f"maj@{k}"] = estimate(votes, seed=seed)
    return found
