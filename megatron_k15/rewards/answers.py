r"""The answer inside a response: `\boxed{…}`, the last number, or `<answer>…</answer>`.

Only the last `TAIL` characters of a response are searched, in one pass, so that a hostile response of any length costs
milliseconds.
"""

import re

TAIL = 32_768
"""Characters of the end of a response in which an answer is looked for."""

_BRACES = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{|\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}.])[-+])?"  # a sign, unless it is the minus of a difference
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)?"  # 1,234,567 or 1234567
    r"(?:(?<=[0-9])\.[0-9]+|(?<![0-9])\.[0-9]+|(?<=[0-9])/[0-9]+)?"  # decimals, or a fraction
    r"(?:(?<=[0-9])[eE][-+]?[0-9]{1,3}(?![0-9]))?",
    re.ASCII,
)


def extract_answer(text: str, method: str) -> str | None:
    """The answer as written, white space stripped; None where there is none.

    Args:
        method: `reward.answer_extraction`.
    """
    tail = text[-TAIL:].replace("\N{MINUS SIGN}", "-")
    match method:
        case "boxed":
            found = _last_boxed(tail)
        case "last_number":
            found = _last_number(tail)
        case "boxed_or_last_number":
            found = _last_boxed(tail) or _last_number(tail)
        case "tag":
            found = _last_tagged(tail)
        case _:
            raise AssertionError(method)
    return (found.strip() or None) if found is not None else None


def _last_boxed(text: str) -> str | None:
    """The content of the closed box that opens last; braces inside must balance, `\\{` is no brace."""
    opened: list[tuple[int, bool]] = []
    best: tuple[int, int] | None = None
    for token in _BRACES.finditer(text):
        if token[0].endswith("{") and token[0] != "\\{":
            opened.append((token.end(), token[0] != "{"))
        elif token[0] == "}" and opened:
            start, is_box = opened.pop()
            if is_box and (best is None or start > best[0]):
                best = (start, token.start())
    return text[best[0] : best[1]] if best else None


def _last_number(text: str) -> str | None:
    last = None
    for match in _NUMBER.finditer(text):
        if match[0] and match[0] not in "+-":
            last = match[0]
    return last


def _last_tagged(text: str) -> str | None:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return text[start + len("<answer>") : end] if start >= 0 else None
