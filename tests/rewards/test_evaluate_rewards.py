"""The tool's table and JSON say what the verdicts were."""

import json
import math
from pathlib import Path

import pytest

from megatron_k15.errors import DataError
from megatron_k15.rewards.source_scores import Tally, read_labelled_pairs
from tools.evaluate_rewards import main

ROWS = [
    {"reference": "1/2", "given": "1/2", "label": True, "category": "a"},
    {"reference": "1/2", "given": "0.5", "label": True, "category": "a"},
    {"reference": "1/2", "given": "2", "label": False, "category": "b"},
    {"reference": r"\text{yes}", "given": "no", "label": False, "category": "b"},
    {"reference": "cat", "given": "cat", "label": False, "category": "b"},
]


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_sources_side_by_side(pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "scores.json"
    arguments = ["--pairs", str(pairs_file), "--source", "text", "quick_rule", "--output", str(output)]
    assert main([*arguments, "--categories", "--errors", "2"]) == 0
    scores = json.loads(output.read_text())["sources"]
    # text: right about the first, third and fourth; one of its two "right" is right; it finds one of two.
    text = {name: scores["text"][name] for name in ("accuracy", "precision", "recall", "num_undecided")}
    assert text == {"accuracy": 0.6, "precision": 0.5, "recall": 0.5, "num_undecided": 0}
    # The quick rule finds both; it is undecided about two words, and takes the last label's word for it.
    quick = {name: scores["quick_rule"][name] for name in ("accuracy", "precision", "recall", "num_undecided")}
    assert quick == {"accuracy": 0.6, "precision": 0.6667, "recall": 1.0, "num_undecided": 1}
    assert scores["text"]["by_category"]["a"]["recall"] == 0.5
    assert scores["text"]["by_category"]["b"]["recall"] is None, "nothing in b is right"
    printed = capsys.readouterr().out
    assert "quick_rule: 2 verdicts are not the label" in printed
    assert r"b: no  for  \text{yes}: undecided" in printed


def test_undecided_is_not_right() -> None:
    tally = Tally(true_right=6, false_right=2, true_wrong=5, false_wrong=1, undecided_right=3, undecided_wrong=3)
    assert (tally.num_pairs, tally.num_undecided) == (20, 6)
    assert (tally.accuracy, tally.precision, tally.recall) == (11 / 20, 6 / 8, 6 / 10)
    assert math.isnan(Tally().accuracy)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("{", "pairs.jsonl:2: Expecting"),
        ("[]", "pairs.jsonl:2: must be one JSON object; got list"),
        ('{"reference": "1", "label": true}', "pairs.jsonl:2: `given` is missing"),
        ('{"reference": "1", "given": 2, "label": true}', "pairs.jsonl:2: `given` must be text; got int"),
        ('{"reference": "1", "given": "2", "label": 1}', "pairs.jsonl:2: `label` must be true or false; got 1"),
    ],
)
def test_a_bad_line_is_named_with_its_rule(pairs_file: Path, line: str, rule: str) -> None:
    pairs_file.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n")
    with pytest.raises(DataError, match=rule):
        read_labelled_pairs([pairs_file])
    assert main(["--pairs", str(pairs_file), "--source", "text"]) == 1
