"""Answers are found as written, and hostile text costs milliseconds."""

import time

import pytest

from megatron_k15.rewards.answers import extract_answer

BOXED = [
    (r"so \boxed{19}.", "19"),
    (r"\boxed{1} no, \boxed{ 2 }", "2"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\boxed{5}}", "5"),
    (r"\fbox{5}", "5"),
    (r"\boxed {5}", "5"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{4} and \boxed{5", "4"),
    (r"\boxed{5", None),
    (r"} \boxed{6} }", "6"),
    (r"\boxed{}", None),
    (r"5", None),
    ("", None),
]
NUMBERS = [
    ("12 + 7 = 19", "19"),
    ("the answer is 19.", "19"),
    ("it costs $1,234.50 today", "1,234.50"),
    ("= -5", "-5"),
    ("= −5", "-5"),
    ("7-5", "5"),
    ("x = (3)-5", "5"),
    ("about .5", ".5"),
    ("1/2", "1/2"),
    ("1,2,3", "3"),
    ("6.02e23", "6.02e23"),
    ("12e", "12"),
    ("+-", None),
    ("٣٤ and １２", None),
    ("5\x00", "5"),
    ("none", None),
]
TAGGED = [
    ("<answer> yes </answer>", "yes"),
    ("<answer>1</answer><answer>2</answer>", "2"),
    ("<answer>1</answer><answer>2", "1"),
    ("</answer><answer>", None),
    ("<answer></answer>", None),
]


@pytest.mark.parametrize(("text", "answer"), BOXED)
def test_the_last_closed_box(text: str, answer: str | None) -> None:
    assert extract_answer(text, "boxed") == answer


@pytest.mark.parametrize(("text", "answer"), NUMBERS)
def test_the_last_number(text: str, answer: str | None) -> None:
    assert extract_answer(text, "last_number") == answer


@pytest.mark.parametrize(("text", "answer"), TAGGED)
def test_the_last_tagged_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text, "tag") == answer


def test_a_box_goes_before_the_last_number() -> None:
    assert extract_answer(r"\boxed{4}, checked in 3 ways", "boxed_or_last_number") == "4"
    assert extract_answer("4, checked in 3 ways", "boxed_or_last_number") == "3"
    assert extract_answer(r"\boxed{4", "boxed_or_last_number") == "4"


@pytest.mark.parametrize(
    "unit", ["\\boxed{", "{", "}", "1,", "1,111", "9" * 50, "-", ".", "1e", "<answer>", "\\", "\x00"]
)
@pytest.mark.parametrize("method", ["boxed", "last_number", "boxed_or_last_number", "tag"])
def test_a_megabyte_of_anything_is_quick(unit: str, method: str) -> None:
    text = unit * (1_000_000 // len(unit))
    started = time.process_time()
    extract_answer(text, method)
    assert time.process_time() - started < 0.5
