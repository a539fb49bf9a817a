"""A programming problem as a prompt's `metadata` carries it.

    {"language": "python", "cases": [{"input": "4\n", "expected": "8\n"}, …],
     "comparison": "tokens", "checker": {"language": …, "source": …}, "limits": {"cpu_seconds": 2.0, …}}

Only `cases` is needed. The names, defaults and meanings are those of `values.py`. A problem that asks for a function,
as HumanEval does, has `entry_point`, its name: each `input` is then a JSON list of arguments, and `expected` the JSON
of what is returned. The comparison stays outside the jail, as for programs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from megatron_k15.sandbox.values import Case, Checker, Comparison, Limits, Submission

DEFAULT_LANGUAGE = "python"
KEYS = ("cases", "checker", "comparison", "entry_point", "language", "limits")
CALL = """

if __name__ == "__main__":
    import json as _json, sys as _sys
    print(_json.dumps({entry_point}(*_json.loads(_sys.stdin.read())), sort_keys=True))
"""
"""After a function's source: calls it on what stands on standard input."""
Value = TypeVar("Value", Case, Checker, Limits)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Everything a submission has but its source."""

    language: str
    cases: tuple[Case, ...]
    comparison: Comparison
    checker: Checker | None
    limits: Limits
    entry_point: str = ""

    def submission(self, source: str) -> Submission:
        return Submission(
            language=self.language,
            source=source + CALL.replace("{entry_point}", self.entry_point) if self.entry_point else source,
            cases=self.cases,
            comparison=self.comparison,
            checker=self.checker,
            limits=self.limits,
            returned_output_bytes=0,
        )


def read_problem(metadata: Mapping[str, Any]) -> Problem:
    """Raises ValueError with the rule that `metadata` breaks."""
    if unknown := sorted(set(metadata) - set(KEYS)):
        raise ValueError(f"must have no other keys than {', '.join(KEYS)}; got {', '.join(unknown)}")
    rows = metadata.get("cases")
    if not isinstance(rows, list) or not rows:
        raise ValueError("`cases` must be a non-empty list of {input, expected}")
    cases = tuple(_read(Case, row, "cases") for row in rows)
    if any(case.expected is None for case in cases):
        raise ValueError("every one of `cases` must have `expected`")
    comparison: Any = metadata.get("comparison") or "tokens"
    if comparison not in ("tokens", "exact"):
        raise ValueError(f"`comparison` must be tokens or exact; got {comparison!r}")
    language = metadata.get("language") or DEFAULT_LANGUAGE
    if not isinstance(language, str):
        raise ValueError(f"`language` must be text; got {language!r}")
    checker = metadata.get("checker")
    entry_point = metadata.get("entry_point") or ""
    if entry_point and not (isinstance(entry_point, str) and entry_point.isidentifier() and language == "python"):
        raise ValueError(f"`entry_point` must be the name of a function, in python; got {entry_point!r} in {language}")
    return Problem(
        language=language,
        cases=cases,
        comparison=comparison,
        checker=_read(Checker, checker, "checker") if checker else None,
        limits=_read(Limits, metadata.get("limits") or {}, "limits"),
        entry_point=entry_point,
    )


def _read(kind: type[Value], row: Any, where: str) -> Value:
    types = {field.name: field.type for field in fields(kind)}
    if not isinstance(row, dict) or not row.keys() <= types.keys():
        raise ValueError(f"`{where}` must have only {', '.join(types)}; got {row!r}"[:500])
    for name, value in row.items():
        allowed = (int, float) if kind is Limits else (str,)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise ValueError(
                f"`{where}.{name}` must be {'a number' if kind is Limits else 'text'}; got {value!r}"[:500]
            )
    try:
        return kind(**row)
    except TypeError as error:
        raise ValueError(f"`{where}`: {error}") from error
