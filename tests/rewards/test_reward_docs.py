"""The snippet of docs/rewards.md adds a term, and its command measures verdicts."""

import asyncio
import json
from pathlib import Path

from tests.documents import ROOT, code_blocks, run_shown
from tests.rewards.answer_pairs import labelled_rows
from tests.rewards.trajectories import prompt, trajectory


def test_the_shown_term_counts() -> None:
    (snippet,) = code_blocks("docs/rewards.md", "python")
    names: dict[str, object] = {}
    exec(compile(snippet, "docs/rewards.md", "exec"), names)
    with names["scorer"] as scorer:  # type: ignore[attr-defined]
        group = asyncio.run(scorer.score(prompt("19"), [trajectory("maybe 19"), trajectory("19")], 0))
    assert [dict(score.parts) for score in group.scores] == [
        {"answer": 1.0, "hedging": -0.5},
        {"answer": 1.0, "hedging": 0.0},
    ]
    assert [score.reward for score in group.scores] == [0.5, 1.0]


def test_the_shown_command_evaluates_every_source(tmp_path: Path) -> None:
    (command,) = code_blocks("docs/rewards.md", "bash")
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    # Every fortieth pair, for time.
    rows = labelled_rows()[::40]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = run_shown(f"{command.rstrip()} --pairs few.jsonl", folder=tmp_path, COLUMNS="120")
    assert shown.returncode == 0, shown.stderr[-2000:]
    sources = json.loads((tmp_path / "scores.json").read_text())["sources"]
    assert list(sources) == ["text", "quick_rule", "math_verify", "rule"]
    assert sources["rule"]["accuracy"] == 1.0
    assert sources["math_verify"]["num_pairs"] == len(rows)
