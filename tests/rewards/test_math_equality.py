"""The exact path decides plain numbers and equal text, and leaves the rest to math-verify."""

import random
from fractions import Fraction

import pytest

from megatron_k15.rewards.math_equality import exactly_equal

CASES = [
    ("19", "19", True),
    ("+19", "19", True),
    ("19.0", "19", True),
    ("019", "19", True),
    ("19.", "19", True),
    ("1,234", "1234", True),
    ("$5$", "5", True),
    ("2/4", "1/2", True),
    ("0.5", "1/2", True),
    ("x  + 1", "x + 1", True),
    ("18", "19", False),
    ("-19", "19", False),
    ("0.333333", "1/3", None),
    ("1/0", "1", None),
    (r"\frac{1}{2}", "1/2", None),
    ("19 cm", "19", None),
    ("1e3", "1000", None),
    ("１９", "19", None),
    ("9**9**9**9", "19", None),
    ("9" * 65, "19", None),
    ("", "19", None),
]


@pytest.mark.parametrize(("given", "reference", "verdict"), CASES)
def test_what_is_decided_exactly(given: str, reference: str, verdict: bool | None) -> None:
    assert exactly_equal(given, reference) is verdict


def test_numbers_agree_with_exact_rationals() -> None:
    """Against Python's own rationals, on random decimals and fractions: never a wrong True, never a wrong False."""
    rng = random.Random(0)

    def number() -> str:
        whole = rng.randint(-30, 30)
        return rng.choice([f"{whole}", f"{whole}.{rng.randint(0, 99):02d}", f"{whole}/{rng.randint(1, 9)}"])

    for _ in range(2_000):
        first, second = number(), number()
        equal = Fraction(first) == Fraction(second)
        assert exactly_equal(first, second) in ({True} if equal else {False, None}), (first, second)
