"""The labelled answer pairs of benchmarks/answer_pairs."""

import json
from typing import Any

from tests.documents import ROOT

FILES = tuple(ROOT / "benchmarks" / "answer_pairs" / name for name in ("by_hand.jsonl", "by_program.jsonl"))


def labelled_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for path in FILES for line in path.read_text(encoding="utf-8").splitlines()]
