"""The shapes an answer may have. `reading.py` makes them of tokens, `comparison.py` compares two.

Example::

    read("[0, 1) \\\\cup \\\\{2\\\\}")    # Union(parts=(Row(opening="[", …), Braces(…)))
    read("x = 5 \\\\text{ cm}")         # Relation(name="x", value=Scalar(value=5, unit=Unit(…)))
"""

from dataclasses import dataclass
from fractions import Fraction

from megatron_k15.rewards.algebra.exact import Quotient
from megatron_k15.rewards.algebra.units import Unit


@dataclass(frozen=True, kw_only=True)
class Scalar:
    value: Quotient
    unit: Unit | None = None
    letters: str = ""
    """Where it is letters and nothing else: a product, a word, or the letter of a choice."""
    has_word: bool = False
    """Three letters in a row, which may be a word that nobody meant as a product."""
    is_decimal: bool = False
    """Written with a decimal point: perhaps rounded."""

    @property
    def constant(self) -> Fraction | None:
        return self.value.constant


@dataclass(frozen=True, kw_only=True)
class Words:
    text: str
    """Lower case, one space between words."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Between brackets, in order: a point, a tuple, an interval."""

    opening: str
    closing: str
    parts: tuple["Form", ...]


@dataclass(frozen=True, kw_only=True)
class Braces:
    """A set."""

    parts: tuple["Form", ...]


@dataclass(frozen=True, kw_only=True)
class Union:
    parts: tuple["Form", ...]


@dataclass(frozen=True, kw_only=True)
class Several:
    """Several answers, in no order."""

    parts: tuple["Form", ...]


@dataclass(frozen=True, kw_only=True)
class Matrix:
    rows: tuple[tuple["Form", ...], ...]


@dataclass(frozen=True, kw_only=True)
class Equation:
    """`left = right`; `name` is the left side where that is one variable, or a function of one."""

    left: Quotient | None
    right: Quotient
    name: str | None
    value: Scalar
    of_argument: Scalar | None = None
    """`value` with another name for x where the left side is f(x): f(t) = t + 1 is the same function."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """`3:4`, or a time of the day."""

    parts: tuple[Scalar, ...]
    half: str = ""
    """`am` or `pm`."""
    is_clock: bool = False
    """Written as a time is: a whole number and two digits."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """`(B) 12`: the letter of a choice, and what it says."""

    letter: str
    said: "Form"


Form = Scalar | Words | Row | Braces | Union | Several | Matrix | Equation | Ratio | Choice
