"""Problems in: JSONL rows with a statement and submissions that are believed to be right.

One row: `id`, `statement`, `submissions` (a list of `{language, source}`), and optionally `generator` (a Python program
that writes one input; see generators.py), `language` (that answers will be written in), `limits`, `special_judge`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_k15.errors import DataError
from megatron_k15.sandbox.values import Limits

SPECIAL_JUDGE = re.compile(
    r"(?:if there (?:are|is)|in case of|among) (?:more than one|multiple|several|many)"
    r"|(?:print|output|find|return) any(?: one)? (?:of|valid|such|correct|possible|suitable)"
    r"|any (?:of them|valid|correct) (?:answer|solution|output|order)? ?(?:is|are|will be) accepted"
    r"|(?:absolute|relative) (?:or (?:absolute|relative) )?error"
    r"|special judge|(?:answers?|solutions?) (?:is|are) not unique"
    r"|任意(?:输出)?一(?:个|种|组)|输出任意|多(?:个|种|组)(?:解|答案|方案)|答案不唯一|误差不超过",
    re.IGNORECASE,
)
"""Where several outputs are right, votes say nothing."""


@dataclass(frozen=True, kw_only=True)
class KnownSubmission:
    language: str
    source: str


@dataclass(frozen=True, kw_only=True)
class SourceProblem:
    id: str
    statement: str
    submissions: tuple[KnownSubmission, ...]
    generator: str | None = None
    language: str = "python"
    limits: Limits = field(default_factory=Limits)
    special_judge: bool | None = None
    """Whether several outputs are right; None: to be read from the statement."""

    @property
    def needs_special_judge(self) -> bool:
        return bool(SPECIAL_JUDGE.search(self.statement)) if self.special_judge is None else self.special_judge


def read_source_problems(path: Path) -> list[SourceProblem]:
    """Raises DataError that names the first bad line and the rule it breaks."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"problems must be a readable UTF-8 file of JSON lines; {path}: {error}") from error
    problems: dict[str, SourceProblem] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            problem = _problem(json.loads(line))
            if problem.id in problems:
                raise ValueError(f"`id` must be unique; {problem.id!r} came before")
        except (ValueError, TypeError, KeyError) as error:
            rule = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{path}:{number}: {rule}") from error
        problems[problem.id] = problem
    return list(problems.values())


def _problem(row: Any) -> SourceProblem:
    if not isinstance(row, Mapping):
        raise ValueError(f"must be one JSON object; got {type(row).__name__}")
    generator = row.get("generator")
    return SourceProblem(
        id=_text(row["id"], "id"),
        statement=_text(row["statement"], "statement"),
        submissions=tuple(_submission(submission) for submission in row["submissions"]),
        generator=_text(generator, "generator") if generator is not None else None,
        language=_text(row.get("language", "python"), "language"),
        limits=Limits(**row.get("limits", {})),
        special_judge=row.get("special_judge"),
    )


def _submission(row: Any) -> KnownSubmission:
    if not isinstance(row, Mapping):
        raise ValueError(f"`submissions` must hold {{language, source}}; got {type(row).__name__}")
    return KnownSubmission(language=_text(row["language"], "language"), source=_text(row["source"], "source"))


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{name}` must be text; got {value!r}"[:200])
    return value
