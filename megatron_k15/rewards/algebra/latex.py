"""An answer as written, in LaTeX, plain or Chinese typing → tokens, with what only matters to the eye left out."""

import re
from dataclasses import dataclass

from megatron_k15.rewards.algebra.undecided import MAX_CHARACTERS, MAX_TOKENS, UndecidedError


@dataclass(frozen=True)
class Token:
    kind: str
    """`number`, `letter`, `command` (without its backslash), `text`, or `sign` (any other character)."""
    text: str
    spaced: bool = False
    """White space stands before it."""


_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_SIGNS = str.maketrans(
    {
        **{chr(code): chr(ascii_code) for code, ascii_code in _FULL_WIDTH.items()},
        **{"｛": r"\{", "｝": r"\}"},
        **{"−": "-", "–": "-", "、": ",", "。": ".", "\u3000": " ", "\u00a0": " ", "【": "[", "】": "]"},
        **{"×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty "},
        **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∈": r"\in ", "∅": r"\emptyset ", "±": r"\pm "},
        **{"∠": r"\angle ", "△": r"\triangle ", "…": r"\dots ", "Ω": r"\Omega ", "ℝ": r"\mathbb{R}"},
        **{"°": r"^\circ ", "²": "^2", "³": "^3", "½": r"\frac{1}{2}"},
    }
)
_INVISIBLE = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|bigl?|bigr|Bigl?|Bigr|quad|qquad)(?![A-Za-z])|(?<!\\)\\[,!;: ]|~"
)
_TYPED_ROOT = re.compile(r"√\s?(\d+|[A-Za-z])", re.ASCII)
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\,|,\\!)(?=\d{3}(?!\d))", re.ASCII)
_RECURRING = re.compile(r"(?<![\d.])(\d{0,9})\.(\d{0,9})\\overline\s?\{(\d{1,9})\}", re.ASCII)
_DOTTED = re.compile(r"\.(\d{0,9})\\dot\s?\{?(\d)\}?(?:(\d{0,9})\\dot\s?\{?(\d)\}?)?", re.ASCII)
_COMMAS = re.compile(r"[-+]?\D{0,2}\d{1,3}(?:,\d{3})+(?:\.\d+)?[^\d,()\[\]{}]*", re.ASCII)
_AMBIGUOUS_COMMA = re.compile(r"\d,\d{3}(?!\d)", re.ASCII)
_TYPED = {
    **{name: name for name in ("sqrt", "pi", "alpha", "beta", "gamma", "delta", "theta", "lambda", "sigma", "omega")},
    **{name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan")},
    **{name: name for name in ("ln", "log", "lg", "exp", "abs")},
    **{"inf": "infty", "infinity": "infty", "infty": "infty"},
}
"""Commands that are often typed without their backslash."""
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mbox|operatorname|boxed)\s*\{(?P<text>[^{}\\]*)\}"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,2}(?![\d.]))?)"
    r"|(?P<environment>\\(?:begin|end)\{[a-z]{1,8}\})"
    r"|\\(?P<command>[A-Za-z]{1,16}|[^A-Za-z])"
    rf"|(?P<typed>(?<![A-Za-z])(?:{'|'.join(_TYPED)})(?![A-Za-z]))"
    r"|(?P<letter>[A-Za-z])"
    r"|(?P<chinese>[\u4e00-\u9fff]+)"
    r"|(?P<sign>.)",
    re.ASCII | re.DOTALL,
)
_SAME_COMMAND = {
    **{"dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "leqslant": "le", "geq": "ge"},
    **{"geqslant": "ge", "lt": "<", "gt": ">", "varnothing": "emptyset", "lbrace": "{", "rbrace": "}", "neq": "ne"},
    **{"langle": "(", "rangle": ")", "ldots": "dots", "cdots": "dots"},
    **{"ast": "cdot", "arctg": "arctan", "tg": "tan", "lvert": "|", "rvert": "|", "vert": "|", "dbinom": "binom"},
}
_SPACES = re.compile(r"(?<![0-9]) +| +(?![0-9])")
_NUMBER_ONLY = re.compile(r"[-+]?\d+(?:\.\d+)?", re.ASCII)


def tokens(answer: str) -> list[Token]:
    """Raises UndecidedError: longer than any answer that is written by hand."""
    if len(answer) > MAX_CHARACTERS:
        raise UndecidedError("a long answer")
    found = _merged(_plain(answer))
    if len(found) > MAX_TOKENS:
        raise UndecidedError("many tokens")
    return found


def spelling(answer: str) -> str:
    """The same for `\\text{June 20}` and `June 20`: tokens without styles, and without spaces but those between digits.

    Raises:
        UndecidedError: as `tokens`.
    """
    return _SPACES.sub("", " ".join(spelled(token) for token in tokens(answer)))


def spelled(token: Token) -> str:
    return f"\\{token.text}" if token.kind == "command" else token.text


def _plain(answer: str) -> str:
    text = _TYPED_ROOT.sub(r"\\sqrt{\1}", answer.translate(_SIGNS).strip()).replace("√", r"\sqrt ")
    if text.startswith("\\boxed{") and text.endswith("}"):
        text = text[len("\\boxed{") : -1]
    text = text.replace(r"\$", "\x01").replace("$", " ").replace(r"\(", " ").replace(r"\)", " ")
    text = text.replace(r"\[", " ").replace(r"\]", " ") if text.startswith(r"\[") else text
    text = text.replace("...", r"\dots ").replace("<=", r"\le ").replace(">=", r"\ge ")
    text = text.strip("*").replace("**", "^")
    text = _DOTTED.sub(r".\1\\overline{\2\3\4}", text)
    text = _RECURRING.sub(_as_fraction, _THOUSANDS.sub("", text))
    text = _INVISIBLE.sub(" ", text).strip()
    if text.endswith(".") or text.endswith(":"):
        text = text[:-1].rstrip()
    if _COMMAS.fullmatch(text):
        return re.sub(r"(?<=\d),(?=\d{3})", "", text)
    if _AMBIGUOUS_COMMA.search(text):
        raise UndecidedError("1,234 among other things: one number or two")
    return text


def _as_fraction(match: re.Match[str]) -> str:
    """0.1\\overline{6} = (16 − 1)/90."""
    whole, once, again = match.groups()
    bottom = (10 ** len(again) - 1) * 10 ** len(once)
    return f"\\frac{{{int(whole + once + again or 0) - int(whole + once or 0)}}}{{{bottom}}}"


def _merged(text: str) -> list[Token]:
    found: list[Token] = []
    spaced = False
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "text"
        if kind == "space":
            spaced = True
            continue
        found += _token(kind, match[kind], spaced)
        spaced = False
    return found


def _token(kind: str, text: str, spaced: bool) -> list[Token]:
    match kind:
        case "text":
            bare = text.strip()
            if _NUMBER_ONLY.fullmatch(bare):
                return [Token("sign" if part in "+-" else "number", part) for part in re.findall(r"[-+]|[\d.]+", bare)]
            return [Token("text", bare, spaced)] if bare else []
        case "environment":
            return [Token("command", text.removeprefix("\\"), spaced)]
        case "command":
            name = _SAME_COMMAND.get(text, text)
            if name in ("<", ">", "|", "%", "&", "(", ")"):
                return [Token("sign", name, spaced)]
            return [Token("command", name, spaced)]
        case "typed":
            return [Token("command", _TYPED[text], spaced)]
        case "chinese":
            return [Token("text", text, spaced)]
        case "sign" if text == "\x01":
            return [Token("command", "$", spaced)]
    return [Token(kind, text, spaced)]
