"""JSONL and Parquet, row by row. A bad row is one value among the others, so that it does not take the file with it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from megatron_k15.errors import DataError


class BadRowError(Exception):
    """Its text is the rule that the row breaks."""


def read_rows(path: Path, *, what: str) -> Iterator[tuple[int, Any]]:
    """Yield (line, decoded row or the `BadRowError` it is). In Parquet, `line` means row, from 1.

    Args:
        what: the file holds, for errors: `prompt`.

    Raises:
        DataError: the file is missing, unreadable, or neither JSONL nor Parquet.
    """
    try:
        match path.suffix:
            case ".jsonl" | ".json":
                yield from _jsonl_rows(path)
            case ".parquet":
                yield from _parquet_rows(path)
            case _:
                raise DataError(f"a {what} file must end in .jsonl or .parquet; got {path}")
    except OSError as error:
        raise DataError(f"{what} file {path} cannot be read: {error.strerror or error}") from error


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
        return BadRowError(f"must be UTF-8; byte {error.start + 1} of the line is {raw[error.start]:#04x}")
    except (ValueError, RecursionError) as error:
        return BadRowError(f"must be one JSON object; {error}")


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
        return BadRowError("must be UTF-8; a text column of this row is not")


def required(row: Any) -> dict[str, Any]:
    """The row, where it is an object.

    Raises:
        BadRowError: it is something else, or could not be decoded.
    """
    if isinstance(row, BadRowError):
        raise row
    if not isinstance(row, dict):
        raise BadRowError(f"must be one JSON object; got {type(row).__name__}")
    return row


def encodable(value: str, field: str) -> str:
    """The value, where it is valid Unicode."""
    # JSON can spell half of a surrogate pair, which no tokenizer and no file takes.
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRowError(f"`{field}` must be valid Unicode; it holds a lone surrogate") from error
    return value
