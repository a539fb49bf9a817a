"""JSONL and Parquet → `Question`s. A bad row is noted with file, line and rule, and left out.

One row holds `prompt` (text) or `messages` (a list of role and content), `answer`, and optionally `id`, `tags`,
`difficulty` (0 to 1), `task` and `metadata`. A `code` row has its test cases in `metadata`, and needs no `answer`.
Other fields are ignored. In Parquet, `line` means row, from 1.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_k15.prompts.question import Message, Question
from megatron_k15.rows.files import BadRowError, encodable, read_rows, required
from megatron_k15.rows.problems import Problems
from megatron_k15.sandbox.problem import read_problem

GYM_PREFIX = "reasoning_gym:"


def read_files(paths: Sequence[str], problems: Problems) -> list[Question]:
    """All good rows of `paths`, in order.

    Raises:
        DataError: a file is missing, unreadable, or neither JSONL nor Parquet.
    """
    questions = []
    names = _short_names(paths)
    for path, name in zip(paths, names, strict=True):
        for line, row in read_rows(Path(path), what="prompt"):
            where = f"{path}:{line}"
            try:
                questions.append(_question(required(row), default_id=f"{name}/{line}", where=where))
            except BadRowError as error:
                problems.add(where, str(error))
    return questions


def _short_names(paths: Sequence[str]) -> list[str]:
    """What ids are made of: the file's stem, or its whole path where two files share the stem."""
    stems = [Path(path).stem for path in paths]
    return [stem if stems.count(stem) == 1 else path for stem, path in zip(stems, paths, strict=True)]


def _question(row: dict[str, Any], *, default_id: str, where: str) -> Question:
    messages = _messages(row.get("messages"))
    if bool(messages) == (row.get("prompt") is not None):
        raise BadRowError("must have either `prompt` or `messages`")
    text = "\n\n".join(message["content"] for message in messages) if messages else _text(row, "prompt")
    if not text.strip():
        raise BadRowError("`prompt` must not be empty")
    task = _task(row.get("task"))
    return Question(
        id=_identifier(row.get("id"), default_id),
        text=text,
        messages=messages,
        answer=_answer(row.get("answer"), needed=task != "code"),
        task=task,
        tags=_tags(row.get("tags")),
        difficulty=_difficulty(row.get("difficulty")),
        metadata=_metadata(row.get("metadata"), task),
        where=where,
    )


def _text(row: dict[str, Any], field: str) -> str:
    value = row[field]
    if not isinstance(value, str):
        raise BadRowError(f"`{field}` must be text; got {type(value).__name__}")
    return encodable(value, field)


def _messages(value: Any) -> tuple[Message, ...]:
    if value is None:
        return ()
    rule = "`messages` must be a list of {role, content} texts that ends with the user's"
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise BadRowError(rule)
    messages = tuple({key: message.get(key) for key in ("role", "content")} for message in value)
    if not all(isinstance(part, str) for message in messages for part in message.values()):
        raise BadRowError(rule)
    if messages[-1]["role"] != "user":
        raise BadRowError(f"{rule}; the last is the {messages[-1]['role']}'s")
    return tuple({key: encodable(str(part), "messages") for key, part in message.items()} for message in messages)


def _identifier(value: Any, default: str) -> str:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadRowError(f"`id` must be a non-empty text or a whole number; got {value!r}")
    return encodable(str(value), "id")


def _answer(value: Any, *, needed: bool) -> str:
    """A program is judged by test cases: it needs no reference answer."""
    if value is None and not needed:
        return ""
    if isinstance(value, str):
        if value.strip():
            return encodable(value, "answer")
        raise BadRowError("`answer` must not be empty")
    if value is None:
        raise BadRowError("`answer` is missing")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRowError(f"`answer` must be text or a finite number; got {type(value).__name__}")
    return str(value)


def _task(value: Any) -> str:
    if value is None or value == "math":
        return "math"
    if value == "code":
        return "code"
    if isinstance(value, str) and value.startswith(GYM_PREFIX):
        from megatron_k15.prompts.gym import unsupported

        reason = unsupported(value.removeprefix(GYM_PREFIX))
        if reason is None:
            return value
        raise BadRowError(f"`task` {value!r}: {reason}")
    raise BadRowError(f"`task` must be math, code or reasoning_gym:NAME; got {value!r}")


def _tags(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise BadRowError(f"`tags` must be a list of texts; got {value!r}")
    return tuple(value)


def _difficulty(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise BadRowError(f"`difficulty` must be a number from 0 to 1; got {value!r}")
    return float(value)


def _metadata(value: Any, task: str) -> dict[str, object]:
    if value is not None and not isinstance(value, dict):
        raise BadRowError(f"`metadata` must be an object; got {type(value).__name__}")
    metadata = value or {}
    if task == "code":
        try:
            read_problem(metadata)
        except ValueError as error:
            raise BadRowError(f"`metadata` of a code prompt: {error}") from error
    return metadata
