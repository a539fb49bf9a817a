"""The length reward (§2.3.3): among the responses to one problem, shorter is better, and a wrong one gains nothing."""

from collections.abc import Sequence


def length_rewards(lengths: Sequence[int], correct: Sequence[bool]) -> list[float]:
    """λ_j = 0.5 − (len_j − min)/(max − min) for a right response, min(0, λ_j) for a wrong one; all 0 if max = min.

    Args:
        lengths: tokens of each of the k responses to one problem.
        correct: their verdicts.
    """
    shortest, longest = min(lengths), max(lengths)
    if shortest == longest:
        return [0.0] * len(lengths)
    scale = longest - shortest
    values = [0.5 - (length - shortest) / scale for length in lengths]
    return [value if right else min(0.0, value) for value, right in zip(values, correct, strict=True)]
