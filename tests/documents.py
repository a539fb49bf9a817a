"""The code blocks of a document, and a shell to run them in as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def code_blocks(document: str, language: str) -> list[str]:
    """Contents of the fenced blocks of `document` (relative to the repository) marked with `language`."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run_shown(
    commands: str, *, folder: Path = ROOT, seconds: float = 120.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `commands` in bash, in `folder`, with this environment's Python and package; the first failure ends it."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euc", commands],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
