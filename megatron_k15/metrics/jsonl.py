"""Append-only JSON lines that survive a kill and stay valid JSON."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append and flush one record. NaN and infinities, which JSON does not have, become null."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json_line(record))


def json_line(record: Mapping[str, Any]) -> str:
    return json.dumps(_finite(record), allow_nan=False) + "\n"


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the records that `keep` refuses, and a last line cut short by a kill; whole or not at all."""
    if not path.exists():
        return
    kept = [line for line in path.read_bytes().splitlines(keepends=True) if _kept(line, keep)]
    staged = path.with_name(f".{path.name}.new")
    with staged.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)


def _kept(line: bytes, keep: Callable[[dict[str, Any]], bool]) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n") and isinstance(record, dict) and keep(record)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
