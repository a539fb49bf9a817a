"""The quick rule is never wrong about a labelled pair, decides nearly all, and gives up cheaply on hostile text."""

import random
import re
from fractions import Fraction

import pytest
import sympy

from megatron_k15.rewards.algebra.reading import read
from megatron_k15.rewards.algebra.undecided import MAX_CHARACTERS, UndecidedError
from megatron_k15.rewards.quick_rule import MAX_ANSWER_CHARACTERS, quick_verdict
from tests.rewards.answer_pairs import FILES, WRITTEN_LATER, labelled_rows


def test_it_is_never_wrong_and_seldom_undecided() -> None:
    rows = labelled_rows()
    verdicts = [quick_verdict(row["given"], row["reference"]) for row in rows]
    wrong = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict not in (row["label"], None)]
    assert wrong == []
    assert verdicts.count(None) / len(rows) < 0.05


def test_it_is_never_wrong_about_pairs_of_another_day() -> None:
    rows = labelled_rows([WRITTEN_LATER])
    verdicts = [quick_verdict(row["given"], row["reference"]) for row in rows]
    assert [row for row, verdict in zip(rows, verdicts, strict=True) if verdict not in (row["label"], None)] == []


def test_equality_has_no_sides() -> None:
    """Given and reference may be exchanged: no pair changes from right to wrong."""
    for row in labelled_rows([*FILES, WRITTEN_LATER]):
        both = {quick_verdict(row["given"], row["reference"]), quick_verdict(row["reference"], row["given"])}
        assert both - {None} <= {row["label"]}, row


@pytest.mark.parametrize("seed", range(60))
def test_random_expressions_agree_with_sympy(seed: int) -> None:
    """sympy says whether two expressions made of the same few parts are equal; what is decided here must be so."""
    rng = random.Random(seed)
    (first, first_value), (second, second_value) = (_expression(rng, 3) for _ in range(2))
    difference = sympy.simplify(first_value - second_value)
    equal = difference == 0
    assert quick_verdict(first, second) in ({True, None} if equal else {False, None}), (first, second)
    expanded = sympy.latex(sympy.expand(first_value))
    assert quick_verdict(first, expanded) in (True, None), (first, expanded)


def _expression(rng: random.Random, depth: int) -> tuple[str, sympy.Expr]:
    if depth == 0:
        name = rng.choice(["x", "y"])
        whole = rng.randint(1, 5)
        leaves = [(name, sympy.Symbol(name)), (str(whole), sympy.Integer(whole))]
        return rng.choice([*leaves, (rf"\sqrt{{{whole}}}", sympy.sqrt(whole)), (r"\pi", sympy.pi)])
    left, left_value = _expression(rng, depth - 1)
    right, right_value = _expression(rng, depth - 1)
    match rng.choice(["+", "-", "*", "^"] + ["/"] * (right_value != 0)):
        case "+":
            return f"{left}+{right}", left_value + right_value
        case "-":
            return rf"{left}-\left({right}\right)", left_value - right_value
        case "*":
            return rf"({left})\cdot({right})", left_value * right_value
        case "^":
            return f"({left})^{{2}}", left_value**2
    return rf"\frac{{{left}}}{{{right}}}", left_value / right_value


DIGITS = "9" * 60
HOSTILE = [
    "9^{9^{9^{9}}}",
    "9**9**9**9",
    "10^{999999999}",
    "1e99",
    DIGITS + "!",
    rf"\sqrt{{{DIGITS}}}",
    r"(x+y+z)^{64}",
    "(" * 200 + "x" + ")" * 200,
    r"\frac{" * 45 + "1" + "}{2}" * 45,
    "((((2^{60})^{60})^{60})^{60})^{60}",
    "*".join(["(a+b+c+d+e+f+g+h)"] * 28),
    r"\{" + ",".join("x" * 1 for _ in range(120)) + r"\}",
    r"\pm" * 100,
    "x^{x^{x^{x^{x^{x}}}}}",
    r"\ln(" * 40 + "2" + ")" * 40,
    r"\begin{pmatrix}" * 30,
    "\\" * 500,
    "1,000," * 80,
    "\x00\x01$\\$" * 50,
    "0.\\overline{" + "3" * 400 + "}",
]


@pytest.mark.parametrize("answer", HOSTILE)
def test_hostile_answers_are_given_up_or_decided(answer: str) -> None:
    assert len(answer) <= MAX_CHARACTERS
    assert quick_verdict(answer, "x+7") is not True
    quick_verdict("x+7", answer)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("2^{65}", "a large exponent"),
        ("((2^{60})^{60})^{60}", "a large power"),
        ("*".join(["(a+b+c+d+e+f+g+h)"] * 5), "many terms"),
        ("+".join(["(1+x)^{30}(1+x)^{30}"] * 8), "much to multiply"),
        (rf"\sqrt{{{DIGITS}}}", "a large radicand"),
        ("9" * 65, "a long number"),
        ("21!", "a factorial of something else than a small whole number"),
        ("(" * 17 + "x" + ")" * 17, "deep nesting"),
        ("x+" * 300, "a long answer"),
        ("()" * 150, "many tokens"),
    ],
)
def test_each_limit_is_kept(answer: str, why: str) -> None:
    with pytest.raises(UndecidedError, match=re.escape(why)):
        read(answer)


def test_a_megabyte_is_wrong_unless_it_is_the_reference() -> None:
    assert quick_verdict("1+" * 500_000, "x+7") is False
    long = "x" * (MAX_ANSWER_CHARACTERS + 1)
    assert quick_verdict(long, long) is True


def test_random_text_of_answer_parts_never_raises_anything_else() -> None:
    rng = random.Random(3)
    parts = [
        *"()[]{}^_,;=<>|!/+-*&%$.xC π米和或",
        r"\{",
        r"\}",
        r"\\",
        r"\$",
        "1",
        "23",
        "4.5",
        "1e5",
        r"\le",
        r"\cdot",
    ]
    parts += [r"\frac", r"\sqrt", r"\pm", r"\cup", r"\in", r"\infty", r"\text{cm}", r"\text{12}", r"^\circ", r"\ln"]
    parts += [
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\log",
        r"\binom",
        r"\mid",
        r"\emptyset",
        r"\sin",
        r"\overline",
        "f",
    ]
    for _ in range(4_000):
        first, second = ("".join(rng.choices(parts, k=rng.randint(1, 12))) for _ in range(2))
        quick_verdict(first, second)
        quick_verdict(first, first + " ")


@pytest.mark.parametrize(
    ("given", "reference"),
    [
        (r"\{x^2 \mid x > 2\}", r"(2,\infty)"),
        (r"x+1 \in [1,2]", "[1,2]"),
        (r"[1,2]\cup[2,3]", "[1,3]"),
        (r"[1,2]\cup(2,3]", r"[1,\frac52]\cup(\frac52,3]"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
        ("x^2 + C", "x^2 + c"),
        ("50", r"50\%"),
        (r"\sqrt{x^2}", "x"),
        ("0.333333", r"\frac13"),
        (r"\sqrt[3]{2+\sqrt5}+\sqrt[3]{2-\sqrt5}", "1"),
        ("x^12", "x^{12}"),
        (r"\sqrt12", r"2\sqrt{3}"),
    ],
)
def test_what_may_be_meant_otherwise_is_left_undecided(given: str, reference: str) -> None:
    assert quick_verdict(given, reference) is None
    assert quick_verdict(reference, given) is None


@pytest.mark.parametrize(
    ("given", "reference", "verdict"),
    [
        ("7 apples", "7", True),
        ("8 apples", "7", False),
        ("5 million", "5000000", True),
        ("5 million", "5", False),
        (r"5\text{ dozen}", "5", False),
        ("5 million dollars", "5", None),
        ("7 tenths", "7", None),
        ("7 tenths", "0.7", True),
        (r"3\text{ quarters}", r"\frac34", True),
        ("5 squared", "5", None),
        ("2 abc", "2abc", True),
        ("2 sin x", r"2\sin x", True),
        ("5 ohms", r"5\ \Omega", True),
        ("40 square feet", r"40\text{ ft}^2", True),
        ("40 square feet", r"40\text{ ft}", False),
        ("1011_2", "1011", True),
        ("1011_2", "1011_3", False),
        ("1021_2", "1021_3", None),
        ("x_2", "x", False),
        ("11:30", r"11:30\text{ a.m.}", True),
        ("11:30 AM", r"11:30\text{ p.m.}", False),
        ("14:30", r"2:30\text{ p.m.}", True),
        ("12:15", r"12:15\text{ p.m.}", True),
        ("0:15", r"12:15\text{ a.m.}", True),
        ("2:45", r"2:30\text{ p.m.}", False),
        (r"5\text{ p.m.}", r"5\text{ a.m.}", False),
        (r"5\text{ PM}", r"5\text{ p.m.}", True),
        ("3am", "3ma", True),
        ("6:8", "3:4", True),
        ("8:6", "3:4", False),
        ("3:45", "1:15", False),
        (r"\frac34", "3:4", True),
        ("4", "3:4", None),
        ("(A) 5", "A", True),
        ("(A) 5", "5", True),
        ("(B) 5", "A", False),
        ("(A) 5", r"\textbf{(A)}\ 5", True),
        ("(A) 5", r"\textbf{(B)}\ 5", None),
        ("(A) - 5", "A", None),
        ("(A)(B)", "AB", True),
        (r"100^\circ \text{C}", "100", True),
        (r"100^\circ \text{C}", r"100^\circ \text{F}", False),
        (r"\frac{\pi}{3}", r"60^\circ", True),
        ("2", r"\csc 30^\circ", True),
        (r"\sin 15^\circ", r"\frac{\sqrt6-\sqrt2}{4}", True),
        (r"\sin 75^\circ", r"\frac{\sqrt6-\sqrt2}{4}", False),
        (r"e^{i\pi/3}", r"\frac{1+i\sqrt3}{2}", True),
        (r"e^{-i\pi/3}", r"\frac{1+i\sqrt3}{2}", False),
        ("f(t)=t^3+1", "f(x)=x^3+1", True),
        ("f(t)=t^3+x", "f(x)=x^3+1", False),
        ("f(2)=7", "f(3)=7", False),
        (r"0.\dot{3}", r"\frac13", True),
        (r"0.\dot14285\dot7", r"\frac17", True),
        (r"\langle 1,2\rangle", "(1,2)", True),
        (r"\text{June 20}", "June 20", True),
        ("June 2 0", "June 20", None),
        ("twelve", "12", True),
        ("1, 2, …, 10", r"1,2,\ldots,10", True),
        ("1 9", "19", None),
        ("sqrt(2)", r"\sqrt{2}", True),
        ("2*sqrt(3)", r"2\sqrt3", True),
        ("sqrt(2)", r"\sqrt{3}", False),
        ("pi/4", r"\frac{\pi}{4}", True),
        ("2 pi r", r"2\pi r", True),
        ("ln(2)", r"\ln 2", True),
        ("(-inf, 3)", r"(-\infty,3)", True),
        ("x>=2", r"x\ge2", True),
        ("x**2", "x^2", True),
        ("e^(2x)", "e^{2x}", True),
        ("cos(pi/3)", "0.5", True),
        ("xsinx", r"x\sin x", None),
        ("about 5", "5", None),
        ("5 (five)", "5", None),
        ("No", "no", None),
        ("abc", "abd", None),
        ("2abc", "2cab", True),
        ("1/2 or 0.5", r"\frac12", True),
        ("5 or 6", "5", False),
        ("**5**", "5", True),
        ("5 degrees Celsius", "5", True),
    ],
)
def test_forms_that_people_write(given: str, reference: str, verdict: bool | None) -> None:
    assert quick_verdict(given, reference) is verdict
    assert quick_verdict(reference, given) is verdict


@pytest.mark.parametrize(
    ("given", "reference"),
    [
        ("√12", r"2\sqrt{3}"),
        ("2√3", r"\sqrt{12}"),
        ("√x", r"\sqrt{x}"),
        ("1½", r"\frac32"),
        ("x²≤4", "x²≤4"),
        ("3×10²", "300"),
    ],
)
def test_typed_signs_are_read_as_typed(given: str, reference: str) -> None:
    assert quick_verdict(given, reference) is True
    assert quick_verdict(given + "+1", reference) is not True


def test_reading_says_why_it_gives_up() -> None:
    with pytest.raises(UndecidedError, match="1/2x: is x above or below the line"):
        read("1/2x")


def test_whole_numbers_agree_with_exact_rationals() -> None:
    rng = random.Random(1)
    for _ in range(500):
        a, b, c, d = (rng.randint(1, 30) for _ in range(4))
        equal = Fraction(a, b) == Fraction(c, d)
        assert quick_verdict(rf"\frac{{{a}}}{{{b}}}", rf"\dfrac{{{c}}}{{{d}}}") is equal
