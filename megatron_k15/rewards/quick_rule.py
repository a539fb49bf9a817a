"""Math by rule, the part in this process: plain numbers, then the common written forms; `workers.py` does the rest.

Some microseconds for a plain number, some tens for LaTeX, a few milliseconds for the worst text: `algebra/` gives up
at its limits (`algebra/undecided.py`). A reference is read once, for all answers to its problem.
"""

from functools import lru_cache

from megatron_k15.rewards.algebra.comparison import equal
from megatron_k15.rewards.algebra.forms import Form
from megatron_k15.rewards.algebra.latex import spelling
from megatron_k15.rewards.algebra.reading import read
from megatron_k15.rewards.algebra.undecided import UndecidedError
from megatron_k15.rewards.math_equality import exactly_equal
from megatron_k15.rewards.verdicts import Verdict

MAX_ANSWER_CHARACTERS = 8192
"""A longer answer is wrong, unless it is the reference to the letter: math-verify would spend its whole limit on it."""
MAX_REFERENCES = 4096


def quick_verdict(given: str, reference: str) -> Verdict:
    """True, False, or None for what only math-verify can tell."""
    decided = exactly_equal(given, reference)
    if decided is not None:
        return decided
    if len(given) > MAX_ANSWER_CHARACTERS:
        return False
    form = reference_form(reference)
    try:
        as_forms = None if form is None else equal(read(given), form)
    except UndecidedError:
        as_forms = None
    return _spelled_alike(given, reference) if as_forms is None else as_forms


def _spelled_alike(given: str, reference: str) -> Verdict:
    try:
        return spelling(given) == spelling(reference) or None
    except UndecidedError:
        return None


@lru_cache(MAX_REFERENCES)
def reference_form(reference: str) -> Form | None:
    """None where it is of no form known here."""
    try:
        return read(reference)
    except UndecidedError:
        return None
