r"""The unit at the end of a number (or `\$` before it), apart from the number."""

import re
from collections.abc import Sequence

from megatron_k15.rewards.algebra.latex import Token
from megatron_k15.rewards.algebra.numeric import FUNCTIONS
from megatron_k15.rewards.algebra.undecided import UndecidedError
from megatron_k15.rewards.algebra.units import DEGREE, PERCENT, UNITS, Unit, base, is_known, unit_named

_HEXADECIMAL = re.compile(r"[0-9A-F]{1,16}_(?:\{1[1-6]\}|1[1-6])", re.ASCII)
_WORDS = re.compile(r" (?=[a-z]*[aeiou])[a-z]{3,}(?: [A-Za-z]{2,})*")


def measured(part: Sequence[Token]) -> tuple[list[Token], Unit | None]:
    """The tokens of the number, and its unit.

    Raises:
        UndecidedError: text that is no unit, or nothing but a unit, nothing at all.
    """
    number, unit = _cut(list(part)) if part else ([], None)
    if not number:
        raise UndecidedError("a unit without a number")
    if any(token.kind == "text" for token in number):
        raise UndecidedError("text inside a number")
    return number, unit


def _cut(part: list[Token]) -> tuple[list[Token], Unit | None]:
    if part[0].kind == "command" and part[0].text == "$":
        return part[1:], UNITS["$"]
    if part[-1].text == "%":
        return part[:-1], PERCENT
    if part[-1].text in ("C", "F") and (length := _degree_length(part[:-1])) > 0:
        return part[: -length - 1], UNITS["℃" if part[-1].text == "C" else "℉"]
    if (system := _number_system(part)) is not None:
        return part[:1], base(system)
    if (length := _degree_length(part)) > 0 and not _is_called(part):
        return part[:-length], DEGREE
    if len(part) > 1 and part[-1].kind == "command" and part[-1].text == "Omega" and part[-2].kind == "number":
        return part[:-1], UNITS["Ω"]
    rest, power = _unit_power(part)
    if rest and rest[-1].kind == "text":
        return rest[:-1], unit_named(rest[-1].text, power)
    return _typed(rest, power) or (part, None)


def _number_system(part: Sequence[Token]) -> int | None:
    """2 for `1011_2`."""
    texts = [token.text for token in part]
    if _HEXADECIMAL.fullmatch("".join(texts)):
        raise UndecidedError("letters that are digits, or a subscript")
    if len(part) == 5 and texts[2] == "{" and texts[4] == "}":
        texts = [*texts[:2], texts[3]]
    if len(texts) != 3 or texts[1] != "_" or part[0].kind != "number" or not texts[2].isdecimal():
        return None
    system = int(texts[2][:3])
    return system if 2 <= system <= 10 and set(texts[0]) <= set("0123456789"[:system]) else None


def _is_called(part: Sequence[Token]) -> bool:
    r"""`\cos 60^\circ` is a number, not degrees."""
    return any(token.kind == "command" and token.text in FUNCTIONS for token in part)


def _degree_length(part: Sequence[Token]) -> int:
    texts = [token.text for token in part]
    return next((len(end) for end in (["^", "circ"], ["^", "{", "circ", "}"]) if texts[-len(end) :] == end), 0)


def _unit_power(part: list[Token]) -> tuple[list[Token], int]:
    """A unit followed by ^2, ^3 or braces around it: the tokens before, and the power."""
    texts = [token.text for token in part]
    for power in (2, 3):
        for end in (["^", str(power)], ["^", "{", str(power), "}"]):
            before = part[: -len(end)]
            if texts[-len(end) :] == end and before and _ends_in_unit(before):
                return before, power
    return part, 1


def _ends_in_unit(part: list[Token]) -> bool:
    return part[-1].kind == "text" or _typed(part, 1) is not None


def _typed(part: list[Token], power: int) -> tuple[list[Token], Unit] | None:
    """`5 cm`, `60 km/h`: letters after a number that spell a unit of at least two letters, or of one after a space.

    `7 apples` too: words that no product of letters looks like.
    """
    start = len(part)
    while start > 0 and (part[start - 1].kind == "letter" or part[start - 1].text == "/"):
        start -= 1
    if start in (0, len(part)) or part[start - 1].text == "_":
        return None
    words = "".join(f" {token.text}" if token.spaced else token.text for token in part[start:])
    if part[start - 1].kind == "number" and _WORDS.fullmatch(words):
        return part[:start], unit_named(words, power)
    word = words.replace(" ", "")
    if not is_known(word):
        return None
    if len(word) == 1 and not part[start].spaced:
        return None
    return part[:start], unit_named(word, power)
