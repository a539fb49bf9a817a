"""docs/kernels.md: its command builds, its snippet runs; what it says of traffic is counted in test_emulation.py."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.documents import ROOT, code_blocks


def test_the_build_command() -> None:
    (command,) = code_blocks("docs/kernels.md", "bash")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euc", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert "is up to date" in done.stdout


def test_the_snippet() -> None:
    (snippet,) = code_blocks("docs/kernels.md", "python")
    names: dict[str, object] = {}
    exec(compile(snippet, "docs/kernels.md", "exec"), names)
    found = names["found"]
    logits = names["hidden"] @ names["weight"].t()  # type: ignore[operator,attr-defined]
    logprobs = logits.log_softmax(-1)[torch.arange(5), torch.tensor([3, 1, 4, 1, 5])]
    expected = (logprobs + 4.6).split([2, 3])
    torch.testing.assert_close(found.log_ratios_S, torch.stack([part.sum() for part in expected]))  # type: ignore[attr-defined]
