"""Two forms → equal, different, or undecided. The conventions are those of benchmarks/answer_pairs/README.md."""

from collections.abc import Sequence

from megatron_k15.rewards.algebra import exact
from megatron_k15.rewards.algebra.exact import Quotient
from megatron_k15.rewards.algebra.forms import Braces, Equation, Form, Matrix, Row, Scalar, Several, Union, Words
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
        case Scalar(), Scalar():
            return _scalars(given, reference)
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
        case ((Several() | Union()), (Several() | Union())):
            # The same points may be cut into other intervals.
            return _unordered(given.parts, reference.parts) or None
        case Matrix(), Matrix():
            return _matrices(given, reference)
    return _different_kinds(given, reference)


def _different_kinds(given: Form, reference: Form) -> Decided:
    r"""One number is no point, no list and no matrix. `\{5\}` and 5, `\{1,2\}` and `1, 2` are left to others."""
    kinds = {type(given), type(reference)}
    if kinds == {Row, Several}:
        several = given if isinstance(given, Several) else reference
        return False if isinstance(several, Several) and all(isinstance(part, Row) for part in several.parts) else None
    if kinds in ({Scalar, Row}, {Scalar, Matrix}, {Scalar, Several}, {Row, Braces}):
        return False
    # Only the empty set is no number: `\{5\}` may be a way to write 5.
    return False if kinds == {Scalar, Braces} and Braces(parts=()) in (given, reference) else None


def _scalars(given: Scalar, reference: Scalar) -> Decided:
    if len(given.letters) == len(reference.letters) == 1:
        return exact.same(given.value, reference.value)
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
    if with_unit.unit.measures != "share":
        return None if as_written is False and with_unit.unit.measures == "angle" else as_written
    verdict = _values(given, reference, _in_first_unit(with_unit), without.value)
    return None if verdict is False and as_written is not False else verdict


def _values(given: Scalar, reference: Scalar, first: Quotient, second: Quotient) -> Decided:
    if exact.same(first, second):
        return True
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
    verdicts = [equal(left, right) for left, right in zip(first, second, strict=True)]
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
