"""The command of docs/curation.md curates, with a real model; a second run asks nothing again."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.documents import ROOT, code_blocks
from tools.curate_prompts import main

ROWS = [
    {"id": "sum", "prompt": "What is 12 + 7 in the usual numbers?", "answer": "19"},
    {"id": "hard", "prompt": "What is 8172 * 9163 in the usual numbers?", "answer": "74880036"},
    {"id": "again", "prompt": "what is 12 + 7, in the usual numbers", "answer": "19"},
    {"id": "seen", "prompt": "What is 5 + 5 in the usual numbers?", "answer": "10"},
    {"id": "proof", "prompt": "Prove that 12 is even.", "answer": "12 = 2 * 6"},
]
HELD_OUT = {"prompt": "What is 5 + 5, in the usual numbers?", "answer": "10"}


def test_the_shown_command_and_a_second_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = code_blocks("docs/curation.md", "bash")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    Path("raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path("held_out.jsonl").write_text(json.dumps(HELD_OUT) + "\n")
    python, tool, *arguments = shlex.split(command.replace("\\\n", ""))
    assert (python, (ROOT / tool).exists()) == ("python", True)
    # Few samples, for time; the rest is as shown.
    few = [
        "--num-difficulty-samples",
        "2",
        "--num-guesses",
        "2",
        "--max-reasoning-tokens",
        "16",
        "--max-pass-rate",
        "1",
    ]
    assert main([*arguments, *few]) == 0
    printed = capsys.readouterr().out
    assert "starting vLLM" in printed
    assert "not easy to hack" in printed
    reasons = {row["id"]: row["reason"] for row in _rows("dropped.jsonl")}
    assert (reasons["again"], reasons["seen"], reasons["proof"]) == ("duplicate", "in_evaluation_set", "proof")
    kept = _rows("prompts.jsonl")
    assert {row["id"] for row in kept} | set(reasons) == {row["id"] for row in ROWS}
    assert [row["difficulty"] for row in kept if row["id"] == "hard"] == [1.0]
    assert Path("curated/report.png").read_bytes().startswith(b"\x89PNG")
    assert {row["id"] for row in _rows("samples.jsonl")} == {"sum", "hard"}

    assert main([*arguments, *few, "--min-pass-rate", "0.1"]) == 0
    assert "starting vLLM" not in capsys.readouterr().out
    assert {row["id"]: row["reason"] for row in _rows("dropped.jsonl")}["hard"] == "too_hard"


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("curated", name).read_text().splitlines()]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ([], "no prompts: name files with --prompts, or reasoning-gym tasks with --gym TASK:COUNT"),
        (["--gym", "chain_sum"], "--gym must be TASK:COUNT, got 'chain_sum'"),
        (["--gym", "chain_sum:3", "--subjects-by", "model"], "--subjects-by model needs --model"),
        (["--gym", "chain_sum:3", "--max-subject-share", "1.5"], "max_subject_share must be in (0, 1], got 1.5"),
        (["--gym", "chain_sum:3", "--endpoint", "http://x/v1"], "--endpoint needs --model, the name of its model"),
        (["--gym", "chain_sum:3", "gcd:2", "chain_sum:3"], "prompt ids must be unique over all files; 'chain_sum/0'"),
    ],
)
def test_what_is_missing_is_said(
    options: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(tmp_path / "out"), *options]) == 1
    assert capsys.readouterr().err.startswith(f"error: {error}")
