"""Tokens → the form of an answer: lists and brackets here, single expressions in expression.py.

An inequality in one letter is the interval that it describes.
"""

import re
from collections.abc import Sequence

from megatron_k15.rewards.algebra import exact
from megatron_k15.rewards.algebra.expression import value_of
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
from megatron_k15.rewards.algebra.latex import Token, spelled, tokens
from megatron_k15.rewards.algebra.measured import measured
from megatron_k15.rewards.algebra.splitting import closes_at_end, split, without_or
from megatron_k15.rewards.algebra.undecided import MAX_DEPTH, UndecidedError
from megatron_k15.rewards.algebra.units import half_of_day

INFINITY = exact.atom(("variable", "∞"))
EVERYTHING_BELOW, EVERYTHING_ABOVE = Scalar(value=exact.minus(INFINITY)), Scalar(value=INFINITY)
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_CHOICE = re.compile(r"\([A-E]\)")
_CLOCK = re.compile(r"[0-5][0-9]", re.ASCII)
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_EMPTY = frozenset({"no solution", "no solutions", "empty set", "none", "无解", "空集"})


def read(answer: str) -> Form:
    """Raises UndecidedError: not a form that is known here."""
    found = tokens(answer)
    if not found:
        raise UndecidedError("nothing")
    return _several(found, 0)


def _several(found: Sequence[Token], depth: int) -> Form:
    if depth > MAX_DEPTH:
        raise UndecidedError("deep nesting")
    if depth == 0 and (whole := _words(found) or _choice(found)):
        return whole
    parts = _parts(found, depth)
    return parts[0] if len(parts) == 1 else Several(parts=parts)


def _choice(found: Sequence[Token]) -> Choice | None:
    r"""`(B) 12`, `\textbf{(B)}\ 12`."""
    if found[0].kind == "text" and _CHOICE.fullmatch(found[0].text):
        letter, said = found[0].text[1], found[1:]
    elif _CHOICE.fullmatch("".join(token.text for token in found[:3])) and len(found) > 3 and found[3].spaced:
        letter, said = found[1].text, found[3:]
        if said[0].text in ("+", "-", "="):
            raise UndecidedError("(A) - 5: a choice, or a difference?")
    else:
        return None
    return Choice(letter=letter, said=_several(said, 1)) if said else None


def _parts(found: Sequence[Token], depth: int) -> tuple[Form, ...]:
    return tuple(_item(signed, depth) for part in split(without_or(found), ",;") for signed in _both_signs(part))


def _both_signs(part: Sequence[Token]) -> list[list[Token]]:
    r"""`1 \pm x` are two answers; `\{\pm x\}` is one set of two."""
    places = [index for index, token in enumerate(part) if token.kind == "command" and token.text in ("pm", "mp")]
    if not places or (spelled(part[0]) == "\\{" and closes_at_end(part)):
        return [list(part)]
    if len(places) > 1:
        raise UndecidedError("several ±")
    (place,) = places
    return [[*part[:place], Token("sign", sign), *part[place + 1 :]] for sign in "+-"]


def _item(part: list[Token], depth: int) -> Form:
    if not part:
        raise UndecidedError("nothing between two commas")
    if len(unions := split(part, "\\cup")) > 1:
        return Union(parts=tuple(_item(list(member), depth + 1) for member in unions))
    if len(inside := split(part, "\\in")) == 2:
        return _item(_of_variable(inside), depth + 1)
    if len(sides := split(part, ":")) > 1:
        return _ratio(sides)
    if [token.text for token in part] == ["mathbb", "{", "R", "}"]:
        return Row(opening="(", closing=")", parts=(EVERYTHING_BELOW, EVERYTHING_ABOVE))
    if words := _words(part):
        return words
    sides, signs = _relation(part)
    if signs:
        return _equation(sides) if signs == ["="] else _inequality(sides, signs)
    return _bracketed(part, depth) or _scalar(part)


def _ratio(sides: list[list[Token]]) -> Ratio:
    """Parts between colons, the last one perhaps with a.m. or p.m."""
    last = sides[-1]
    length = next((index for index, token in enumerate(last) if token.kind in ("text", "letter")), len(last))
    if half := half_of_day("".join(token.text for token in last[length:]).replace(" ", "")):
        sides[-1] = last[:length]
    is_clock = len(sides) <= 3 and all(len(side) == 1 and _CLOCK.fullmatch(side[0].text) for side in sides[1:])
    return Ratio(parts=tuple(_scalar(side) for side in sides), half=half, is_clock=is_clock)


def _of_variable(sides: Sequence[list[Token]]) -> list[Token]:
    r"""What `x \in …` and `x \mid …` say of x. The values of `x^2 \mid x > 2` are others."""
    name, said = sides
    if not _is_name(split(name, "\\in")[0]):
        raise UndecidedError("a set of values of an expression")
    return said


def _words(part: Sequence[Token]) -> Form | None:
    r"""Text alone: `\text{even}`, 奇数, or at least three letters in a row that are no unit after a number."""
    if any(token.kind == "command" and token.text == "emptyset" for token in part):
        return Braces(parts=()) if len(part) == 1 else None
    if all(token.kind == "text" for token in part):
        text = " ".join(" ".join(token.text for token in part).split()).strip(" .").lower()
        if len(text) == 1 or (len(text) == 3 and text[0] == "(" and text[2] == ")"):
            letter = part[0].text.strip("(). ")
            return Scalar(value=exact.atom(("variable", letter)), letters=letter)
        return _said(text)
    if len(part) >= 3 and all(token.kind == "letter" for token in part):
        words = "".join(f" {token.text}" if token.spaced else token.text for token in part).lower().split()
        text = " ".join(words)
        if min(map(len, words)) >= 2:
            return _said(text)
    return None


def _said(text: str) -> Form:
    if text in _NUMBERS:
        return Scalar(value=exact.number(_NUMBERS.index(text)))
    return Braces(parts=()) if text in _EMPTY else Words(text=text)


def _relation(part: Sequence[Token]) -> tuple[list[list[Token]], list[str]]:
    sides: list[list[Token]] = [[]]
    signs = []
    level = 0
    for token in part:
        name = spelled(token)
        level += (name in ("(", "[", "{", "\\{")) - (name in (")", "]", "}", "\\}"))
        if level == 0 and token.kind != "text" and name in ("=", "<", ">", "\\le", "\\ge"):
            signs.append(name)
            sides.append([])
        else:
            sides[-1].append(token)
    return sides, signs


def _equation(sides: Sequence[list[Token]]) -> Equation:
    left, right = sides
    if not left or not right:
        raise UndecidedError("an equation without a side")
    value = _scalar(right)
    if _is_function(left):
        renamed = _scalar(_with_renamed_argument(left, right))
        return Equation(left=None, right=value.value, name=left[0].text, value=value, of_argument=renamed)
    side = value_of(left)
    name = _variable(side)
    return Equation(left=side, right=value.value, name=name, value=value)


def _with_renamed_argument(left: Sequence[Token], right: Sequence[Token]) -> list[Token]:
    """The right side of f(t) = …, with one name for every t."""
    name = (left[2].kind, left[2].text)
    return [Token("letter", "argument", token.spaced) if (token.kind, token.text) == name else token for token in right]


def _is_function(part: Sequence[Token]) -> bool:
    """`f(x)`."""
    texts = [token.text for token in part]
    return len(part) == 4 and part[0].kind == part[2].kind == "letter" and texts[1] == "(" and texts[3] == ")"


def _variable(value: exact.Quotient) -> str | None:
    if len(value.top) == 1 and value.bottom == exact.ONE:
        ((monomial, coefficient),) = value.top.items()
        if coefficient == 1 and len(monomial) == 1 and monomial[0][0][0] == "variable" and monomial[0][1] == 1:
            return str(monomial[0][0][1])
    return None


def _inequality(sides: Sequence[list[Token]], signs: list[str]) -> Row:
    """`a < x \\le b` is (a, b], `x > a` is (a, ∞)."""
    if "=" in signs or len(signs) > 2:
        raise UndecidedError("a chain of relations")
    if len(signs) == 2:
        if signs[0] in (">", "\\ge"):
            sides, signs = sides[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
        if any(sign not in ("<", "\\le") for sign in signs) or not _is_name(sides[1]):
            raise UndecidedError("an inequality in more than one letter")
        return _interval(_scalar(sides[0]), signs[0], _scalar(sides[2]), signs[1])
    (first, second), sign = sides, signs[0]
    if _is_name(second) and not _is_name(first):
        first, second, sign = second, first, _FLIPPED[sign]
    if not _is_name(first):
        raise UndecidedError("an inequality that is not solved")
    bound = _scalar(second)
    if sign in ("<", "\\le"):
        return _interval(EVERYTHING_BELOW, "<", bound, sign)
    return _interval(bound, _FLIPPED[sign], EVERYTHING_ABOVE, "<")


def _interval(low: Scalar, low_sign: str, high: Scalar, high_sign: str) -> Row:
    if low.unit or high.unit:
        raise UndecidedError("an inequality with units")
    return Row(opening="(" if low_sign == "<" else "[", closing=")" if high_sign == "<" else "]", parts=(low, high))


def _is_name(part: Sequence[Token]) -> bool:
    return bool(part) and part[0].kind == "letter" and (len(part) == 1 or (len(part) == 3 and part[1].text == "_"))


def _bracketed(part: list[Token], depth: int) -> Form | None:
    first = part[0]
    if first.kind == "command" and first.text.startswith("begin{"):
        return _matrix(part, depth)
    if not closes_at_end(part):
        return None
    inside = part[1:-1]
    if first.kind == "command":  # \{
        return _set(inside, depth)
    if first.text in "([" and len(split(inside, ",")) > 1:
        parts = tuple(_item(list(member), depth + 1) for member in split(inside, ","))
        return Row(opening=first.text, closing=part[-1].text, parts=parts)
    if first.text == "(" and len(inside) == 1 and inside[0].kind == "letter":
        return _scalar(inside)  # (B)
    return None


def _set(inside: list[Token], depth: int) -> Form:
    for divider in ("\\mid", "|", ":"):
        if len(sides := split(inside, divider)) == 2:
            return _item(_of_variable(sides), depth + 1)
    if not inside:
        return Braces(parts=())
    return Braces(parts=_parts(inside, depth + 1))


def _matrix(part: list[Token], depth: int) -> Matrix:
    if not part[-1].text.startswith("end{") or any(token.text.startswith("begin{") for token in part[1:]):
        raise UndecidedError("a matrix among other things")
    if part[0].text not in ("begin{pmatrix}", "begin{bmatrix}", "begin{matrix}"):
        raise UndecidedError("an environment that is no matrix")
    rows = [row for row in split(part[1:-1], "\\\\") if row]
    return Matrix(rows=tuple(tuple(_item(list(cell), depth + 1) for cell in split(row, "&")) for row in rows))


def _scalar(part: list[Token]) -> Scalar:
    number, unit = measured(part)
    if len(number) == 1 and number[0].kind == "command" and number[0].text == "infty":
        return EVERYTHING_ABOVE
    if [token.text for token in number[1:]] == ["infty"] and number[0].text in ("+", "-"):
        return EVERYTHING_ABOVE if number[0].text == "+" else EVERYTHING_BELOW
    return Scalar(
        value=value_of(number),
        unit=unit,
        letters="".join(token.text for token in number) if all(token.kind == "letter" for token in number) else "",
        has_word=_has_word(number),
        is_decimal=any(token.kind == "number" and "." in token.text for token in number),
    )


def _has_word(part: Sequence[Token]) -> bool:
    return any(
        all(token.kind == "letter" for token in three) and not any(token.spaced for token in three[1:])
        for three in zip(part, part[1:], part[2:], strict=False)
    )
