"""Verdicts by content: what was judged once is not asked again, in this run or after it resumes.

A line per verdict, appended; a line that a crash cut off leaves the file. Undecided answers are not kept: they are
asked about again.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from megatron_k15.json_lines import read_appended


class VerdictCache:
    def __init__(self, path: Path | None) -> None:
        """
        Args:
            path: the file; None keeps verdicts in memory alone.

        Raises:
            DataError: the file holds something else.
        """
        self._found: dict[str, bool] = {}
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._found = {str(row["key"]): bool(row["correct"]) for row in read_appended(path)}
            self._file = path.open("a", encoding="utf-8")

    def get(self, key: str) -> bool | None:
        return self._found.get(key)

    def put(self, key: str, correct: bool) -> None:
        self._found[key] = correct
        if self._file is not None:
            self._file.write(json.dumps({"key": key, "correct": correct}) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def content_key(*parts: Any) -> str:
    """sha256 over everything that a verdict depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
