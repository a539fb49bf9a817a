"""The command of docs/simulation.md, with the speeds that it shows."""

import subprocess
from pathlib import Path

from tests.documents import code_blocks, run_shown
from tests.launch import ROOT


def _run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    (folder / "tools").symlink_to(ROOT / "tools")
    return run_shown(command, folder=folder, COLUMNS="120")


def test_the_shown_command_finds_a_best_row(tmp_path: Path) -> None:
    (speeds,) = code_blocks("docs/simulation.md", "json")
    (command,) = code_blocks("docs/simulation.md", "bash")
    (tmp_path / "speeds.json").write_text(speeds)
    result = _run(tmp_path, command)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert len(rows) == 4 * 5
    best = [row for row in rows if "◄" in row]
    assert len(best) == 1
    assert float(best[0][5]) == max(float(row[5]) for row in rows)
    # Under a long tail some budget beats none.
    assert best[0][2] != "none"


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "speeds.json").write_text('{"decode": 3}')
    result = _run(tmp_path, "python tools/simulate.py speeds.json")
    assert result.returncode == 1
    assert result.stderr.startswith("error: speeds.json must hold the speeds")
