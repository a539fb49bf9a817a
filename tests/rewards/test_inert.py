"""The list of verifiers that evaluate is complete for the installed reasoning_gym, and costs no right answer."""

import ast
from pathlib import Path

import pytest
import reasoning_gym

from megatron_k15.rewards.inert import EVALUATING_TASKS, is_inert

HARMLESS = {
    "number_sorting": "evaluates the reference answer only",
    "bitwise_arithmetic": "evaluates the question only",
    "propositional_logic": "parse_expr is a parser of its own",
}
UNUSED = {"codeio", "basic_arithmetic", "generators_00_49", "generators_50_99"}
"""Evaluate while making a question, not while judging."""


EVALUATORS = {"eval", "exec", "parse_expr", "sympify"}


def test_every_verifier_that_evaluates_is_listed() -> None:
    package = Path(reasoning_gym.__file__).parent
    evaluating = {path.stem for path in package.rglob("*.py") if _evaluates(path)}
    assert evaluating - UNUSED - HARMLESS.keys() == EVALUATING_TASKS.keys()


def _evaluates(path: Path) -> bool:
    text = path.read_text()
    if not any(f"{name}(" in text for name in EVALUATORS):
        return False
    calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)} | {
        call.attr for call in calls if isinstance(call, ast.Attribute)
    }
    return bool(names & EVALUATORS)


@pytest.mark.parametrize("task", sorted(EVALUATING_TASKS))
def test_right_answers_are_inert(task: str) -> None:
    dataset = reasoning_gym.create_dataset(task, seed=0, size=12)
    answers = [dataset[index]["answer"] for index in range(12)]
    # sympy could not integrate these; the answer it gives is no answer.
    refused = [answer for answer in answers if not is_inert(task, answer) and "Integral" not in answer]
    assert refused == []


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("countdown", "open(1)"),
        ("countdown", "1if 1else 2"),
        ("n_queens", "exit()"),
        ("n_queens", "[].append"),
        ("n_queens", 'f"{exit}"'),
        ("simple_integration", "x.func"),
        ("simple_integration", "x. func"),
        ("simple_integration", "exit(1)"),
        ("simple_integration", "x[0]"),
        ("simple_integration", "x__class__"),
        ("polynomial_multiplication", "eval(x)"),
        ("polynomial_multiplication", "ｅxit(1)"),
    ],
)
def test_what_could_act_is_not(task: str, answer: str) -> None:
    assert not is_inert(task, answer)
