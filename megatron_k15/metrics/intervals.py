"""95% confidence intervals for accuracies, sound also for few prompts and for accuracies of 0 and 1."""

from collections.abc import Sequence
from math import sqrt

Z = 1.959963984540054
"""The normal distribution's 97.5% point."""


def accuracy_interval(num_correct: int, n: int) -> tuple[float, float]:
    """Wilson's score interval for `num_correct` right out of `n`.

    (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n), with p = num_correct/n.
    """
    if not 0 <= num_correct <= n or n == 0:
        raise ValueError(f"num_correct must be between 0 and n, and n above 0; got {num_correct} and {n}")
    share = num_correct / n
    centre = share + Z * Z / (2 * n)
    half_width = Z * sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return max(0.0, (centre - half_width) / scale), min(1.0, (centre + half_width) / scale)


def paired_difference_interval(before: Sequence[bool], after: Sequence[bool]) -> tuple[float, float]:
    """Bonett and Price's adjusted Wald interval (2012) for the accuracy after minus the accuracy before, same prompts.

    With g prompts gained, l lost, and the shares p = (g+1)/(n+2), q = (l+1)/(n+2):
    p − q ± z √((p + q − (p − q)²)/(n + 2)). The added ones keep it honest where few prompts, or none, changed.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"both lists must have one verdict per prompt; got {len(before)} and {len(after)}")
    n = len(before)
    gained = (1 + sum(new and not old for old, new in zip(before, after, strict=True))) / (n + 2)
    lost = (1 + sum(old and not new for old, new in zip(before, after, strict=True))) / (n + 2)
    half_width = Z * sqrt((gained + lost - (gained - lost) ** 2) / (n + 2))
    return max(-1.0, gained - lost - half_width), min(1.0, gained - lost + half_width)
