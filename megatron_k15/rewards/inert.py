"""Which texts may reach which verifier.

Some verifiers of reasoning_gym 0.1.25 hand the answer to Python's `eval` or to sympy's `parse_expr`, which evaluates.
For these tasks only a text that cannot do anything is let through; any other counts as wrong. No right answer is lost:
the lists below hold what right answers are written with.
"""

import re

_LISTS = re.compile(r"""[A-Za-z0-9_ \n,'"\[\]-]*""", re.ASCII)
"""Names and literals, but no call, attribute, operator or format string."""
_ARITHMETIC = re.compile(r"[0-9+\-*/() \n.]*", re.ASCII)
_ALGEBRA = re.compile(r"[A-Za-z0-9+\-*/() \n.]*", re.ASCII)
_WORD = re.compile(r"[A-Za-z]+", re.ASCII)
_ATTRIBUTE = re.compile(r"\.\s*[A-Za-z]", re.ASCII)
_FUNCTIONS = {"sin", "cos", "tan", "exp", "log", "sqrt", "asin", "acos", "atan", "sinh", "cosh", "tanh", "pi"}

EVALUATING_TASKS = {
    "binary_matrix": "list",
    "n_queens": "list",
    "spiral_matrix": "list",
    "string_insertion": "list",
    "countdown": "arithmetic",
    "puzzle24": "arithmetic",
    "intermediate_integration": "algebra",
    "polynomial_multiplication": "algebra",
    "simple_integration": "algebra",
}


def is_inert(task: str, answer: str) -> bool:
    """Whether `answer` may be given to the verifier of reasoning-gym's `task`."""
    match EVALUATING_TASKS.get(task):
        case None:
            return True
        case "list":
            return _LISTS.fullmatch(answer) is not None
        case "arithmetic":
            return _ARITHMETIC.fullmatch(answer) is not None
        case _:
            return _is_algebra(answer)


def _is_algebra(answer: str) -> bool:
    """Numbers, operators, one-letter variables and the functions above. sympy's namespace holds Python's builtins
    (`open`, `exec`, …), none of which is one letter long."""
    if not _ALGEBRA.fullmatch(answer) or _ATTRIBUTE.search(answer):
        return False
    return all(len(word) == 1 or word in _FUNCTIONS for word in _WORD.findall(answer))
