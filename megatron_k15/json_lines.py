"""JSON lines that a tool appends to as it goes, and reads again when it goes on."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megatron_k15.errors import DataError


def read_appended(path: Path) -> list[Any]:
    """The values in `path`; none where there is no such file. A last line that a crash cut off leaves the file.

    Raises:
        DataError: a whole line is not JSON.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise DataError(f"{path} must hold results of this program; {error}. Name another --output") from error


def write_whole(path: Path, rows: Iterable[Any]) -> None:
    """Synced and renamed into place: nobody reads half a file."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
