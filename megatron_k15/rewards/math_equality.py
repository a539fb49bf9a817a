"""The cheap, exact part of comparing two answers, in this process; `workers.py` does the rest.

It knows equal text (white space and `$` aside) and plain numbers: integers, decimals, thousands written with commas,
and fractions of integers, as exact rationals of at most 64 ASCII characters. It does not know LaTeX, units, percent
signs, exponents, tuples or algebra, and says None for them.
"""

import re
from fractions import Fraction

MAX_NUMBER_CHARACTERS = 64
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*|/[0-9]+)?", re.ASCII)
_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)


def exactly_equal(given: str, reference: str) -> bool | None:
    """True: equal. False: two different whole numbers. None: not decided here."""
    given, reference = _bare(given), _bare(reference)
    if given == reference:
        return True
    first, second = _number(given), _number(reference)
    if first is None or second is None:
        return None
    if first == second:
        return True
    # 0.333333 and 1/3 are equal to math-verify, which rounds; whole numbers never are.
    return False if _INTEGER.fullmatch(given) and _INTEGER.fullmatch(reference) else None


def _bare(answer: str) -> str:
    return " ".join(answer.split()).strip("$ ")


def _number(text: str) -> Fraction | None:
    if len(text) > MAX_NUMBER_CHARACTERS or not _NUMBER.fullmatch(text):
        return None
    numerator, _, denominator = text.replace(",", "").partition("/")
    if not denominator:
        return Fraction(numerator)
    return Fraction(int(numerator), int(denominator)) if int(denominator) else None
