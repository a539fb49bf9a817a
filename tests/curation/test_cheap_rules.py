"""Validity, duplicates, subjects and balance: the rules that ask no model."""

from collections import Counter

import pytest

from megatron_k15.curation.balance import balance
from megatron_k15.curation.duplicates import drop_duplicates
from megatron_k15.curation.model_subjects import named_discipline
from megatron_k15.curation.settings import CurationSettings
from megatron_k15.curation.subjects import tag_subject
from megatron_k15.curation.validity import check_validity
from megatron_k15.errors import ConfigError
from tests.curation.questions import candidate, reasons
from tests.sampling.scripted_model import question

SETTINGS = CurationSettings()
INVALID = [
    ("2+2?", "4", "too_short"),
    ("word " * 2000, "4", "too_long"),
    ("What is th\ufffd value of x?", "4", "garbled"),
    ("What is the valÃ©Ã¨ of x?", "4", "garbled"),
    ("As shown in the figure, find the angle ABC.", "30", "needs_image"),
    ("如图，求阴影部分的面积。", "12", "needs_image"),
    ("Find x. ![triangle](t.png)", "12", "needs_image"),
    ("Write the solution of x = 1 in full.", "one and then two " * 20, "answer_too_long"),
]


@pytest.mark.parametrize(("text", "answer", "reason"), INVALID)
def test_invalid_prompts_have_their_reason(text: str, answer: str, reason: str) -> None:
    assert reasons([check_validity(candidate(text, answer), SETTINGS)]) == {"q": reason}


@pytest.mark.parametrize("text", ["Find the graph of y = x at x = 2: what is y?", "What is 7 + 8, in figures?"])
def test_valid_prompts_stay(text: str) -> None:
    assert check_validity(candidate(text), SETTINGS).is_in


def test_thresholds_are_settings() -> None:
    assert check_validity(candidate("2+2?"), CurationSettings(min_characters=2)).is_in
    with pytest.raises(ConfigError, match=r"max_pass_rate must be in \[0, 1\], got 2"):
        CurationSettings(max_pass_rate=2)
    with pytest.raises(ConfigError, match=r"guess_instruction must hold {prompt}"):
        CurationSettings(guess_instruction="guess")


def test_duplicates_of_each_kind() -> None:
    larger = "The sum of two numbers is 20 and their difference is 4. What is the larger number?"
    reworded = "The sum of two numbers is 20, and their difference is 4. What is the value of the larger number?"
    candidates = [
        candidate(larger, "12", "first"),
        candidate(larger.upper().replace(" ", "  "), "12", "other case"),
        candidate(reworded, "12.0", "reworded"),
        candidate(larger.replace("20", "30"), "17", "other number"),
        candidate(larger.replace("sum", "product"), "11", "other answer"),
        candidate("求方程 $x^2-5x+6=0$ 的两根之和。", "5", "chinese"),
        candidate("求方程 $x^2-5x+6=0$ 的两根之和是多少？", "5", "chinese reworded"),
        candidate("求方程 $x^2-5x-6=0$ 的两根之和。", "5", "other sign"),
        candidate("Simplify P ∧ Q for the truth values given here and now.", "0", "and"),
        candidate("Simplify P ∨ Q for the truth values given here and now.", "0", "or"),
    ]
    dropped = {
        "other case": "duplicate",
        "reworded": "near_duplicate",
        "chinese reworded": "near_duplicate",
    }
    result = drop_duplicates(candidates, [], SETTINGS)
    assert {name: reason for name, reason in reasons(result).items() if reason} == dropped
    assert result[2].drop is not None
    assert result[2].drop.detail.startswith("similarity 0.8")


def test_what_is_in_an_evaluation_set_leaves_and_says_where_it_stands() -> None:
    evaluation = [
        question("A fair die is rolled twice. What is the probability that the total is 7?", "1/6", "held/1"),
        question("Find the remainder when 7^{100} is divided by 5.", "1", "held/2"),
    ]
    candidates = [
        candidate("A fair die is rolled twice. What is the probability that the sum is 7?", r"\frac{1}{6}", "reworded"),
        candidate("find the remainder when 7^{100} is divided by 5", "1", "same"),
        candidate("Find the remainder when 7^{101} is divided by 5.", "2", "another"),
    ]
    result = drop_duplicates(candidates, evaluation, SETTINGS)
    assert reasons(result) == {"reworded": "in_evaluation_set", "same": "in_evaluation_set", "another": None}
    assert result[1].drop is not None
    assert result[1].drop.detail == "the same text as file:held/2"


def test_the_threshold_decides_what_is_near() -> None:
    pair = [
        candidate("What is the area of a circle of radius 3?", "1", "first"),
        candidate("What is the total area of the circle of radius 3?", "1", "second"),
    ]
    strict, loose = (CurationSettings(near_duplicate_similarity=value) for value in (0.95, 0.4))
    assert all(one.is_in for one in drop_duplicates(pair, [], strict))
    assert reasons(drop_duplicates(pair, [], loose))["second"] == "near_duplicate"


SUBJECTS = [
    ("A triangle has sides 3, 4 and 5. What is its area?", "math", "geometry"),
    ("求三角形的面积和周长。", "math", "geometry"),
    ("Find the greatest common divisor and the remainder.", "math", "number theory"),
    ("What is the probability of two heads when a coin is tossed?", "math", "probability"),
    ("How many moles react with the acid?", "science", "chemistry"),
    ("What is the capital of France?", "humanities", "history and geography"),
    ("Hmm.", "other", "other"),
]


@pytest.mark.parametrize(("text", "domain", "discipline"), SUBJECTS)
def test_subjects_by_words(text: str, domain: str, discipline: str) -> None:
    tagged = tag_subject(candidate(text))
    assert (tagged.domain, tagged.discipline) == (domain, discipline)
    assert tagged.question.tags == (f"domain:{domain}", f"discipline:{discipline}")


def test_a_task_or_a_tag_says_more_than_words() -> None:
    assert tag_subject(candidate("x", task="reasoning_gym:knights_knaves")).discipline == "logic"
    assert tag_subject(candidate("x", task="code")).domain == "code"
    own = tag_subject(candidate("A triangle", tags=("old", "discipline:physics")))
    assert own.question.tags == ("old", "discipline:physics", "domain:science")


def test_a_model_names_one_discipline_or_none() -> None:
    assert named_discipline("Linear Algebra.") == "linear algebra"
    assert named_discipline("It is algebra") == "algebra"
    assert named_discipline("algebra or geometry") is None
    assert named_discipline("cooking") is None


def test_balance_caps_the_large_and_leaves_the_rare() -> None:
    sizes = {"algebra": 60, "geometry": 25, "logic": 10, "physics": 5}
    candidates = [
        tag_subject(candidate("x", identifier=f"{name}/{index}"), name)
        for name, size in sizes.items()
        for index in range(size)
    ]
    result = balance(candidates, CurationSettings(max_subject_share=0.3))
    kept = Counter(one.discipline for one in result if one.is_in)
    assert kept == {"algebra": 30, "geometry": 25, "logic": 10, "physics": 5}
    again = balance(candidates[::-1], CurationSettings(max_subject_share=0.3))
    assert {one.question.id for one in result if one.is_in} == {one.question.id for one in again if one.is_in}
    other = balance(candidates, CurationSettings(max_subject_share=0.3, seed=1))
    assert {one.question.id for one in result if one.is_in} != {one.question.id for one in other if one.is_in}


def test_balance_of_few_subjects_is_even() -> None:
    candidates = [tag_subject(candidate("x", identifier=f"{i}"), "algebra" if i < 30 else "logic") for i in range(40)]
    kept = Counter(one.discipline for one in balance(candidates, SETTINGS) if one.is_in)
    assert kept == {"algebra": 20, "logic": 10}
