"""JSONL and Parquet → `Question`s. A bad row is noted with file, line and rule, and left out.

One row holds `prompt` (text) or `messages` (a list of role and content), `answer`, and optionally `id`, `tags`,
`difficulty` (0 to 1), `task` and `metadata`. A `code` row has its test cases in `metadata`, and needs no `answer`.
Other fields are ignored. In Parquet, `line` means row, from 1.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from megatron_k15.errors import DataError
from megatron_k15.prompts.problems import Problems
from megatron_k15.prompts.question import Message, Question
from megatron_k15.sandbox.problem import read_problem

GYM_PREFIX = "reasoning_gym:"


class _BadRowError(Exception):
    """Its text is the rule that the row breaks."""


def read_files(paths: Sequence[str], problems: Problems) -> list[Question]:
    """All good rows of `paths`, in order.

    Raises:
        DataError: a file is missing, unreadable, or neither JSONL nor Parquet.
    """
    questions = []
    names = _short_names(paths)
    for path, name in zip(paths, names, strict=True):
        for line, row in _rows(Path(path)):
            where = f"{path}:{line}"
            try:
                if isinstance(row, _BadRowError):
                    raise row
                questions.append(_question(row, default_id=f"{name}/{line}", where=where))
            except _BadRowError as error:
                problems.add(where, str(error))
    return questions


def _short_names(paths: Sequence[str]) -> list[str]:
    """What ids are made of: the file's stem, or its whole path where two files share the stem."""
    stems = [Path(path).stem for path in paths]
    return [stem if stems.count(stem) == 1 else path for stem, path in zip(stems, paths, strict=True)]


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line, decoded row or the rule it breaks)."""
    try:
        match path.suffix:
            case ".jsonl" | ".json":
                yield from _jsonl_rows(path)
            case ".parquet":
                yield from _parquet_rows(path)
            case _:
                raise DataError(f"a prompt file must end in .jsonl or .parquet; got {path}")
    except OSError as error:
        raise DataError(f"prompt file {path} cannot be read: {error.strerror or error}") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Any]]:
    # Lines are split before decoding, so that one line of invalid UTF-8 does not take the file with it.
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            if raw.strip():
                yield line, _decoded(raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw)


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        return _BadRowError(f"must be UTF-8; byte {error.start + 1} of the line is {raw[error.start]:#04x}")
    except (ValueError, RecursionError) as error:
        return _BadRowError(f"must be one JSON object; {error}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        line = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for index in range(batch.num_rows):
                    line += 1
                    yield line, _parquet_row(batch.slice(index, 1))
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} must be a Parquet file: {error}") from error


def _parquet_row(row: Any) -> Any:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return _BadRowError("must be UTF-8; a text column of this row is not")


def _question(row: Any, *, default_id: str, where: str) -> Question:
    if not isinstance(row, dict):
        raise _BadRowError(f"must be one JSON object; got {type(row).__name__}")
    messages = _messages(row.get("messages"))
    if bool(messages) == (row.get("prompt") is not None):
        raise _BadRowError("must have either `prompt` or `messages`")
    text = "\n\n".join(message["content"] for message in messages) if messages else _text(row, "prompt")
    if not text.strip():
        raise _BadRowError("`prompt` must not be empty")
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
        raise _BadRowError(f"`{field}` must be text; got {type(value).__name__}")
    return _encodable(value, field)


def _encodable(value: str, field: str) -> str:
    # JSON can spell half of a surrogate pair, which no tokenizer and no file takes.
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _BadRowError(f"`{field}` must be valid Unicode; it holds a lone surrogate") from error
    return value


def _messages(value: Any) -> tuple[Message, ...]:
    if value is None:
        return ()
    rule = "`messages` must be a list of {role, content} texts that ends with the user's"
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise _BadRowError(rule)
    messages = tuple({key: message.get(key) for key in ("role", "content")} for message in value)
    if not all(isinstance(part, str) for message in messages for part in message.values()):
        raise _BadRowError(rule)
    if messages[-1]["role"] != "user":
        raise _BadRowError(f"{rule}; the last is the {messages[-1]['role']}'s")
    return tuple({key: _encodable(str(part), "messages") for key, part in message.items()} for message in messages)


def _identifier(value: Any, default: str) -> str:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise _BadRowError(f"`id` must be a non-empty text or a whole number; got {value!r}")
    return _encodable(str(value), "id")


def _answer(value: Any, *, needed: bool) -> str:
    """A program is judged by test cases: it needs no reference answer."""
    if value is None and not needed:
        return ""
    if isinstance(value, str):
        if value.strip():
            return _encodable(value, "answer")
        raise _BadRowError("`answer` must not be empty")
    if value is None:
        raise _BadRowError("`answer` is missing")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _BadRowError(f"`answer` must be text or a finite number; got {type(value).__name__}")
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
        raise _BadRowError(f"`task` {value!r}: {reason}")
    raise _BadRowError(f"`task` must be math, code or reasoning_gym:NAME; got {value!r}")


def _tags(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise _BadRowError(f"`tags` must be a list of texts; got {value!r}")
    return tuple(value)


def _difficulty(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _BadRowError(f"`difficulty` must be a number from 0 to 1; got {value!r}")
    return float(value)


def _metadata(value: Any, task: str) -> dict[str, object]:
    if value is not None and not isinstance(value, dict):
        raise _BadRowError(f"`metadata` must be an object; got {type(value).__name__}")
    metadata = value or {}
    if task == "code":
        try:
            read_problem(metadata)
        except ValueError as error:
            raise _BadRowError(f"`metadata` of a code prompt: {error}") from error
    return metadata
