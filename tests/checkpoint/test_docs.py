"""The commands of docs/checkpoints.md, run as they stand; the converter's errors on the command line."""

import subprocess
import sys
from pathlib import Path

from tests.documents import ROOT, code_blocks, run_shown
from tests.models.tiny_models import build

TOOL = ROOT / "tools" / "convert_checkpoint.py"


def test_every_command_of_the_document_works(tmp_path: Path) -> None:
    build(tmp_path / "models" / "llama")
    commands = "\n".join(code_blocks("docs/checkpoints.md", "bash"))
    assert commands.count("convert_checkpoint.py") == 3
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    result = run_shown(commands, folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("wrote models/") == 3
    assert not [path for path in (tmp_path / "models").iterdir() if path.name.startswith(".")]


def test_a_refusal_is_one_line_and_a_failing_exit_status(tmp_path: Path) -> None:
    paths = ["--input", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]
    result = subprocess.run(
        [sys.executable, str(TOOL), "--direction", "hf-to-megatron", *paths],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"error: a model directory needs a config.json; {tmp_path / 'nowhere'} has none"
    ]
    assert not (tmp_path / "out").exists()
