"""The labelled answer pairs of benchmarks/answer_pairs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.documents import ROOT

FILES = tuple(ROOT / "benchmarks" / "answer_pairs" / name for name in ("by_hand.jsonl", "by_program.jsonl"))
WRITTEN_LATER = FILES[0].with_name("written_later.jsonl")


def labelled_rows(files: Sequence[Path] = FILES) -> list[dict[str, Any]]:
    return [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
