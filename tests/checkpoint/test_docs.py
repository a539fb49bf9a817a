"""The commands of docs/checkpoints.md, run as they stand; the converter's errors on the command line."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.launch import ROOT
from tests.models.tiny_models import build

TOOL = ROOT / "tools" / "convert_checkpoint.py"


def test_every_command_of_the_document_works(tmp_path: Path) -> None:
    build(tmp_path / "models" / "llama")
    text = (ROOT / "docs" / "checkpoints.md").read_text()
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL))
    assert commands.count("convert_checkpoint.py") == 3
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        ["bash", "-euc", commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("wrote models/") == 3
    assert not [path for path in (tmp_path / "models").iterdir() if path.name.startswith(".")]


def test_a_refusal_is_one_line_and_a_failing_exit_status(tmp_path: Path) -> None:
    paths = ["--input", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]
    result = subprocess.run(
        [sys.executable, str(TOOL), "--direction", "hf-to-megatron", *paths],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"error: a model directory needs a config.json; {tmp_path / 'nowhere'} has none"
    ]
    assert not (tmp_path / "out").exists()
