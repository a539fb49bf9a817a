"""The thresholds of §2.3.5, worked by hand."""

import pytest

from megatron_k15.test_cases.problems import SourceProblem
from megatron_k15.test_cases.voting import Thresholds, agreed_outputs, passes

REPORT = Thresholds()


def test_the_defaults_are_the_reports() -> None:
    assert (REPORT.num_cases, REPORT.num_submissions, REPORT.min_agreeing) == (50, 10, 7)
    assert (REPORT.min_valid_cases, REPORT.min_passing) == (40, 9)


def test_seven_of_ten_make_a_case_valid_and_six_do_not() -> None:
    columns = [
        ["1"] * 7 + ["2"] * 3,
        ["1"] * 6 + ["2"] * 4,
        ["1"] * 6 + ["2"] * 3 + [None],
        [None] * 10,
        [None] * 3 + ["7 8"] * 6 + ["7\n8\n"],
        [""] * 10,
    ]
    outputs = [list(row) for row in zip(*columns, strict=True)]
    assert agreed_outputs(outputs, REPORT) == ["1", None, None, None, "7 8", ""]


def test_a_submission_passes_when_it_agrees_in_every_valid_case() -> None:
    outputs = [["1", "x", "3"], ["1", "y", "3\n"], ["1", "x", None], ["2", "x", "3"]]
    assert passes(outputs, ["1", None, "3"]) == [True, True, False, False]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"min_agreeing": 5}, "more than half of num_submissions"),
        ({"min_agreeing": 11}, "min_agreeing must be from 1 to num_submissions"),
        ({"min_passing": 0}, "min_passing must be from 1"),
        ({"min_valid_cases": 51}, "min_valid_cases must be from 1 to num_cases"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(changes: dict[str, int], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Thresholds(**changes)


@pytest.mark.parametrize(
    ("statement", "needed"),
    [
        ("Print the number of ways.", False),
        ("If there are multiple solutions, print any of them.", True),
        ("If there is more than one answer, output any.", True),
        ("Your answer is accepted if the absolute or relative error is at most 1e-6.", True),
        ("Print any valid permutation.", True),
        ("如果有多种方案，输出任意一种。", True),
        ("输出一个整数，表示答案。", False),
        ("For any two vertices, print the distance.", False),
    ],
)
def test_a_special_judge_is_read_from_the_statement(statement: str, needed: bool) -> None:
    problem = SourceProblem(id="x", statement=statement, submissions=())
    assert problem.needs_special_judge is needed
    assert not SourceProblem(id="x", statement=statement, submissions=(), special_judge=False).needs_special_judge
