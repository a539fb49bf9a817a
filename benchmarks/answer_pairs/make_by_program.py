"""Answer pairs whose label follows from how they are made: `by_program.jsonl`, the same file every time.

    python benchmarks/answer_pairs/make_by_program.py

Each maker draws one value and writes it in two ways (equal by construction), or beside another value (wrong by
construction). No comparison of answers is used, so that the set can test one.
"""

import json
import math
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

PAIRS_PER_LABEL = 8
SEED = 15
Written = tuple[str, str]
Maker = Callable[[random.Random, bool], Written]


def main() -> None:
    rng = random.Random(SEED)
    rows = [
        {"category": category, "label": label, "reference": reference, "given": given}
        for category, maker in MAKERS.items()
        for label in (True, False)
        for reference, given in _different(rng, maker, label)
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    Path(__file__).with_name("by_program.jsonl").write_text(text, encoding="utf-8")


def _different(rng: random.Random, maker: Maker, label: bool) -> list[Written]:
    pairs: dict[Written, None] = {}
    while len(pairs) < PAIRS_PER_LABEL:
        pairs[maker(rng, label)] = None
    return list(pairs)


def _fraction(rng: random.Random, label: bool) -> Written:
    value = Fraction(rng.randint(1, 40), rng.randint(2, 19))
    scale = rng.randint(2, 5)
    sign = rng.choice(["", "-"])
    if label:
        given = f"{sign}\\frac{{{value.numerator * scale}}}{{{value.denominator * scale}}}"
    else:
        given = f"{sign}\\frac{{{value.numerator + value.denominator * scale}}}{{{value.denominator}}}"
    return f"{sign}\\dfrac{{{value.numerator}}}{{{value.denominator}}}", given


def _terminating(rng: random.Random, label: bool) -> Written:
    denominator = rng.choice([2, 4, 5, 8, 10, 20, 25])
    numerator = rng.randint(1, 60)
    decimal = float(Fraction(numerator + (0 if label else rng.choice([-1, 1])), denominator))
    return f"\\frac{{{numerator}}}{{{denominator}}}", f"{decimal:g}"


def _mixed(rng: random.Random, label: bool) -> Written:
    denominator = rng.randint(3, 12)
    numerator = rng.choice([n for n in range(1, denominator) if math.gcd(n, denominator) == 1])
    whole = rng.randint(1, 12)
    top = whole * denominator + numerator if label else whole * numerator
    return f"{whole}\\frac{{{numerator}}}{{{denominator}}}", f"\\frac{{{top}}}{{{denominator}}}"


def _scientific(rng: random.Random, label: bool) -> Written:
    digits, exponent = rng.randint(11, 99), rng.randint(3, 9)
    shown = exponent if label else exponent + rng.choice([-1, 1])
    return f"{digits / 10:g} \\times 10^{{{shown}}}", str(digits * 10 ** (exponent - 1))


def _radical(rng: random.Random, label: bool) -> Written:
    outside, inside = rng.randint(2, 9), rng.choice([2, 3, 5, 6, 7, 10])
    radicand = outside**2 * inside if label else outside * inside
    return f"{outside}\\sqrt{{{inside}}}", f"\\sqrt{{{radicand}}}"


def _rationalised(rng: random.Random, label: bool) -> Written:
    whole, inside = rng.randint(3, 9), rng.choice([2, 3, 5, 7])
    bottom = whole**2 - inside
    sign = "-" if label else "+"
    return f"\\frac{{1}}{{{whole}+\\sqrt{{{inside}}}}}", f"\\frac{{{whole}{sign}\\sqrt{{{inside}}}}}{{{bottom}}}"


def _expanded(rng: random.Random, label: bool) -> Written:
    """(x + a)(x - b) = x² + (a - b)x - ab, with a ≠ b so that the wrong sign is another polynomial."""
    a, b = rng.sample(range(1, 10), 2)
    middle = a - b if label else b - a
    return f"(x+{a})(x-{b})", f"x^2{middle:+d}x-{a * b}"


def _interval(rng: random.Random, label: bool) -> Written:
    low = rng.randint(-9, 5)
    high = low + rng.randint(1, 9)
    opening, closing = rng.choice("(["), rng.choice(")]")
    given_opening = opening if label else "(["[opening == "("]
    return f"{opening}{low},{high}{closing}", f"\\left{given_opening}{low}, {high}\\right{closing}"


def _inequality(rng: random.Random, label: bool) -> Written:
    low = rng.randint(-9, 5)
    high = low + rng.randint(1, 9)
    strict = rng.choice([True, False])
    bracket = "(" if strict == label else "["
    sign = "<" if strict else "\\le"
    return f"{low} {sign} x < {high}", f"{bracket}{low},{high})"


def _set(rng: random.Random, label: bool) -> Written:
    members = rng.sample(range(-9, 20), rng.randint(3, 5))
    given = rng.sample(members, len(members))
    if not label:
        given[0] = max(members) + 1
    return _braces(members), _braces(given)


def _braces(members: list[int]) -> str:
    return "\\{" + ", ".join(map(str, members)) + "\\}"


def _tuple(rng: random.Random, label: bool) -> Written:
    first, second = rng.sample(range(-9, 10), 2)
    given = (first, second) if label else (second, first)
    return f"({first},{second})", f"\\left( {given[0]}, {given[1]} \\right)"


def _several(rng: random.Random, label: bool) -> Written:
    first, second = rng.sample(range(-9, 10), 2)
    shown = second if label else second + rng.choice([-1, 1]) * 20
    return f"x={first}, x={second}", f"{shown}, {first}"


def _matrix(rng: random.Random, label: bool) -> Written:
    rows = [[rng.randint(-9, 9) for _ in range(2)] for _ in range(2)]
    other = [list(row) for row in rows]
    if not label:
        other[rng.randint(0, 1)][rng.randint(0, 1)] += rng.choice([-1, 1])
    return _environment("pmatrix", rows, "&"), _environment("bmatrix", other, " & ")


def _environment(name: str, rows: list[list[int]], between: str) -> str:
    body = " \\\\ ".join(between.join(map(str, row)) for row in rows)
    return f"\\begin{{{name}}}{body}\\end{{{name}}}"


def _unit(rng: random.Random, label: bool) -> Written:
    large, small, factor = rng.choice(
        [("m", "cm", 100), ("km", "m", 1000), ("kg", "g", 1000), ("cm", "mm", 10), ("hours", "minutes", 60)]
    )
    value = rng.randint(2, 30)
    wrong = rng.choice([f"{value}\\text{{ {small}}}", f"{value + 1}\\text{{ {large}}}"])
    return f"{value} \\text{{ {large}}}", f"{value * factor}\\ \\mathrm{{{small}}}" if label else wrong


def _percent(rng: random.Random, label: bool) -> Written:
    value = rng.randint(1, 99)
    return f"{value}\\%", f"{value / 100 if label else value / 10:g}"


def _angle(rng: random.Random, label: bool) -> Written:
    value = rng.randint(5, 175)
    return f"{value}^\\circ", f"{value if label else 180 - value + (value == 90)}^{{\\circ}}"


def _complex(rng: random.Random, label: bool) -> Written:
    real, imaginary = rng.randint(1, 9), rng.randint(2, 9)
    return f"{real}+{imaginary}i", f"{imaginary if label else -imaginary}i+{real}"


def _chinese(rng: random.Random, label: bool) -> Written:
    first, second = rng.sample(range(1, 10), 2)
    given = (first, second) if label else (second, first)
    return f"（{first}，{second}）", f"({given[0]}, {given[1]})"


MAKERS: dict[str, Maker] = {
    "fractions": _fraction,
    "decimals": _terminating,
    "mixed numbers": _mixed,
    "scientific notation": _scientific,
    "radicals": _radical,
    "rationalised": _rationalised,
    "algebra": _expanded,
    "intervals": _interval,
    "inequalities": _inequality,
    "sets": _set,
    "tuples": _tuple,
    "multiple answers": _several,
    "matrices": _matrix,
    "units": _unit,
    "percent": _percent,
    "angles": _angle,
    "complex numbers": _complex,
    "Chinese": _chinese,
}

if __name__ == "__main__":
    main()
