"""Two forms → equal, different, or undecided. The conventions are those of benchmarks/answer_pairs/README.md."""

from collections.abc import Sequence

from megatron_k15.rewards.algebra import exact
from megatron_k15.rewards.algebra.exact import Quotient
from megatron_k15.rewards.algebra.expression import RADIANS_PER_DEGREE
from megatron_k15.rewards.algebra.forms import (
    Braces,
    Choice,
    Equation,
    Form,
    Matrix,
    Ratio,
    Row,
    Scalar,
    Several,
    Union,
    Words,
)
from megatron_k15.rewards.algebra.numeric import clearly_different

Decided = bool | None
_CONSTANT_TERMS = (((("variable", "C"), 1),), ((("variable", "c"), 1),))
MAX_UNORDERED = 12
"""Members of a set; each is compared with each."""


def equal(given: Form, reference: Form) -> Decided:
    """Raises UndecidedError: a value grew too large to compare."""
    if isinstance(given, Equation) or isinstance(reference, Equation):
        return _equations(given, reference)
    match given, reference:
        case (Choice(), _) | (_, Choice()):
            return _choices(given, reference)
        case Scalar(), Scalar():
            return _scalars(given, reference)
        case Ratio(), Ratio():
            return _ratios(given, reference)
        case (Ratio() as ratio, Scalar() as scalar) | (Scalar() as scalar, Ratio() as ratio):
            return _ratio_and_number(ratio, scalar)
        case (Words(text=first), Words(text=second)) | (Words(text=first), Scalar(letters=second)):
            return True if first == second.lower() else None
        case Scalar(letters=first), Words(text=second):
            return True if first.lower() == second else None
        case Row(), Row():
            return _rows(given, reference)
        case Braces(), Braces():
            return _unordered(given.parts, reference.parts)
        case Several(), Several():
            return _unordered(given.parts, reference.parts)
        case (Braces(parts=one), Several(parts=other)) | (Several(parts=one), Braces(parts=other)):
            return _unordered(one, other) or None
        case ((Several() | Union()), (Several() | Union())):
            # The same points may be cut into other intervals.
            return _unordered(given.parts, reference.parts) or None
        case Matrix(), Matrix():
            return _matrices(given, reference)
    return _different_kinds(given, reference)


def _choices(given: Form, reference: Form) -> Decided:
    """The letter, or what it says, is enough; where both are there and disagree, nothing is decided."""
    if isinstance(given, Choice) and isinstance(reference, Choice):
        said, letters = equal(given.said, reference.said), given.letter == reference.letter
        return letters if said in (letters, None) else None
    choice, other = (given, reference) if isinstance(given, Choice) else (reference, given)
    assert isinstance(choice, Choice)
    if isinstance(other, Scalar) and len(other.letters) == 1:
        return other.letters.upper() == choice.letter
    return equal(choice.said, other)


def _ratios(given: Ratio, reference: Ratio) -> Decided:
    r"""`6:8` is `3:4`, but a quarter past one is not a quarter to four."""
    if len(given.parts) != len(reference.parts):
        return None
    as_written = _all(given.parts, reference.parts)
    if given.half or reference.half:
        return _same_time(given, reference, as_written)
    if as_written or (given.is_clock and reference.is_clock):
        return as_written
    first, second = ([part.value for part in side.parts] for side in (given, reference))
    crossed = zip((exact.times(a, second[0]) for a in first), (exact.times(b, first[0]) for b in second), strict=True)
    return _all_of([_values(given.parts[0], reference.parts[0], a, b) for a, b in crossed])


def _same_time(given: Ratio, reference: Ratio, as_written: Decided) -> Decided:
    """a.m. and p.m. may be left out, or counted into the hour."""
    if given.half and reference.half:
        return as_written and given.half == reference.half
    named, other = (given, reference) if given.half else (reference, given)
    hour = named.parts[0].constant
    if as_written or hour is None:
        return as_written
    counted = Scalar(value=exact.number(hour % 12 + (12 if named.half == "pm" else 0)))
    return _all([counted, *named.parts[1:]], other.parts)


def _ratio_and_number(ratio: Ratio, number: Scalar) -> Decided:
    """3:4 may be written as three quarters."""
    if len(ratio.parts) != 2 or ratio.half or number.unit or not ratio.parts[1].value.top:
        return None
    return exact.same(exact.over(ratio.parts[0].value, ratio.parts[1].value), number.value) or None


def _different_kinds(given: Form, reference: Form) -> Decided:
    r"""One number is no point, no list and no matrix. `\{5\}` and 5 are left to others."""
    kinds = {type(given), type(reference)}
    if kinds == {Row, Several}:
        several = given if isinstance(given, Several) else reference
        return False if isinstance(several, Several) and all(isinstance(part, Row) for part in several.parts) else None
    if kinds == {Scalar, Several}:
        several, one = (given, reference) if isinstance(given, Several) else (reference, given)
        return _unordered(several.parts, [one]) if isinstance(several, Several) else None
    if kinds in ({Scalar, Row}, {Scalar, Matrix}, {Row, Braces}):
        return False
    # Only the empty set is no number: `\{5\}` may be a way to write 5.
    return False if kinds == {Scalar, Braces} and Braces(parts=()) in (given, reference) else None


def _scalars(given: Scalar, reference: Scalar) -> Decided:
    if len(given.letters) == len(reference.letters) == 1:
        return exact.same(given.value, reference.value)
    if given.letters and given.letters != reference.letters and given.letters.lower() == reference.letters.lower():
        return None  # a word, or a product
    if given.unit is None and reference.unit is None:
        return _values(given, reference, given.value, reference.value)
    if given.unit is not None and reference.unit is not None:
        return _with_units(given, reference)
    return _one_unit(given, reference)


def _with_units(given: Scalar, reference: Scalar) -> Decided:
    assert given.unit is not None
    assert reference.unit is not None
    verdict = _values(given, reference, _in_first_unit(given), _in_first_unit(reference))
    if given.unit.measures == reference.unit.measures or verdict is False:
        return verdict
    return False if given.unit.is_known and reference.unit.is_known else None


def _in_first_unit(side: Scalar) -> Quotient:
    return exact.times(side.value, exact.number(side.unit.size)) if side.unit else side.value


def _one_unit(given: Scalar, reference: Scalar) -> Decided:
    """The unit may be left out. A percent sign may not: 50 for 50% is not decided here, 0.5 is right."""
    with_unit, without = (given, reference) if given.unit is not None else (reference, given)
    assert with_unit.unit is not None
    as_written = _values(given, reference, with_unit.value, without.value)
    if with_unit.unit.measures == "angle":
        return as_written or exact.same(exact.times(with_unit.value, RADIANS_PER_DEGREE), without.value) or None
    if with_unit.unit.measures == "count":
        verdict = _values(given, reference, _in_first_unit(with_unit), without.value)
        # Three quarters may be three coins.
        return verdict or None if with_unit.unit.size < 1 else verdict
    if with_unit.unit.measures != "share":
        # `2 abc` may be a product after all.
        return as_written if with_unit.unit.is_known or without.constant is not None else as_written or None
    verdict = _values(given, reference, _in_first_unit(with_unit), without.value)
    return None if verdict is False and as_written is not False else verdict


def _values(given: Scalar, reference: Scalar, first: Quotient, second: Quotient) -> Decided:
    if exact.same(first, second):
        return True
    if given.has_word or reference.has_word:
        return None
    if given.constant is not None and reference.constant is not None and not (given.is_decimal or reference.is_decimal):
        return False
    if not clearly_different(first, second):
        return None
    # A constant of integration may have any name.
    return None if any(term in value.top for term in _CONSTANT_TERMS for value in (first, second)) else False


def _rows(given: Row, reference: Row) -> Decided:
    if len(given.parts) != len(reference.parts):
        return False
    brackets = (given.opening, given.closing) == (reference.opening, reference.closing)
    verdict = _all(given.parts, reference.parts)
    return verdict if brackets else False


def _all(first: Sequence[Form], second: Sequence[Form]) -> Decided:
    """All pairs equal; False as soon as one is not."""
    return _all_of([equal(left, right) for left, right in zip(first, second, strict=True)])


def _all_of(verdicts: Sequence[Decided]) -> Decided:
    return False if False in verdicts else None if None in verdicts else True


def _unordered(given: Sequence[Form], reference: Sequence[Form]) -> Decided:
    """Equal as sets: each has its like on the other side."""
    if max(len(given), len(reference)) > MAX_UNORDERED:
        return None
    table = [[equal(one, other) for other in reference] for one in given]
    columns = [list(column) for column in zip(*table, strict=True)] if table else [[] for _ in reference]
    found = [_any(line) for line in [*table, *columns]]
    return False if False in found else None if None in found else True


def _any(verdicts: Sequence[Decided]) -> Decided:
    return True if True in verdicts else None if None in verdicts else False


def _matrices(given: Matrix, reference: Matrix) -> Decided:
    if [len(row) for row in given.rows] != [len(row) for row in reference.rows]:
        return False
    return _all([cell for row in given.rows for cell in row], [cell for row in reference.rows for cell in row])


def _equations(given: Form, reference: Form) -> Decided:
    if isinstance(given, Equation) and isinstance(reference, Equation):
        return _both_equations(given, reference)
    equation, other = (given, reference) if isinstance(given, Equation) else (reference, given)
    assert isinstance(equation, Equation)
    if equation.name is None:
        return False if isinstance(other, Row | Matrix) else None
    return equal(equation.value, other)


def _both_equations(given: Equation, reference: Equation) -> Decided:
    if given.of_argument is not None and reference.of_argument is not None:
        return equal(given.of_argument, reference.of_argument) if given.name == reference.name else None
    if given.name is not None and given.name == reference.name:
        return equal(given.value, reference.value)
    if given.left is None or reference.left is None:
        return None
    first, second = (exact.plus(side.left, exact.minus(side.right)) for side in (given, reference) if side.left)
    if _proportional(first, second):
        return True
    return False if _is_linear(first) and _is_linear(second) else None


def _proportional(first: Quotient, second: Quotient) -> bool:
    if not first.top or not second.top:
        return False
    monomial, coefficient = next(iter(first.top.items()))
    scale = second.top.get(monomial)
    if scale is None or first.bottom != second.bottom:
        return False
    return all(second.top.get(m, 0) * coefficient == c * scale for m, c in first.top.items()) and (
        len(first.top) == len(second.top)
    )


def _is_linear(value: Quotient) -> bool:
    """Two linear equations say the same only where one is a multiple of the other."""
    return value.bottom == exact.ONE and all(
        sum(exponent for _, exponent in monomial) <= 1 and all(factor[0] == "variable" for factor, _ in monomial)
        for monomial in value.top
    )
