"""Tokens cut at the separators that stand outside of all brackets."""

from collections.abc import Sequence

from megatron_k15.rewards.algebra.latex import Token, spelled
from megatron_k15.rewards.algebra.undecided import UndecidedError

_OPEN = frozenset({"(", "[", "{", "\\{"})
_CLOSED = frozenset({")", "]", "}", "\\}"})
_AND = frozenset({"and", "or", ", and", ", or", "和", "或", "与"})


def split(tokens: Sequence[Token], separators: str) -> list[list[Token]]:
    """`separators`: one command with its backslash, or any of the given signs."""
    names = {separators} if separators.startswith("\\") else set(separators)
    pieces: list[list[Token]] = [[]]
    level = 0
    for token in tokens:
        name = spelled(token)
        level += (name in _OPEN) - (name in _CLOSED)
        if level < 0:
            raise UndecidedError("a bracket that was not opened")
        if level == 0 and name in names and token.kind != "text":
            pieces.append([])
        else:
            pieces[-1].append(token)
    if level:
        raise UndecidedError("a bracket that is not closed")
    return pieces


def closes_at_end(tokens: Sequence[Token]) -> bool:
    """The first token opens a bracket that the last one closes."""
    if spelled(tokens[0]) not in _OPEN:
        return False
    level = 0
    for index, token in enumerate(tokens):
        name = spelled(token)
        level += (name in _OPEN) - (name in _CLOSED)
        if level == 0:
            return index == len(tokens) - 1
    return False


def without_or(tokens: Sequence[Token]) -> list[Token]:
    r"""`1, 2, \text{ and } 3`, `1 or 2` and 1或2 are lists: the words become commas."""
    result: list[Token] = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        length = _length_of_and(tokens, index)
        if length:
            if result and result[-1].text != ",":
                result.append(Token("sign", ","))
            index += length
            continue
        result.append(token)
        index += 1
    return result


def _length_of_and(tokens: Sequence[Token], index: int) -> int:
    """How many tokens from `index` on spell "and" or "or", 0 where they do not; letters must stand as a word."""
    token = tokens[index]
    if token.kind == "text":
        return int(token.text.lower() in _AND)
    if token.kind != "letter" or not token.spaced:
        return 0
    for word in ("and", "or"):
        end = index + len(word)
        letters = tokens[index:end]
        if "".join(t.text for t in letters) == word and not any(t.spaced for t in letters[1:]):
            return len(word) if end < len(tokens) and tokens[end].spaced else 0
    return 0
