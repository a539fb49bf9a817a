"""The commands of docs/metrics.md, on a run made here."""

import subprocess
import sys
from pathlib import Path

from megatron_k15.config import MetricsConfig
from megatron_k15.metrics import MetricsWriter
from tests.documents import ROOT, code_blocks
from tests.metrics.groups import group


def run_in(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    program, script, *arguments = command.split()
    assert program == "python"
    words = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=180)


def commands() -> list[str]:
    shown = [line for block in code_blocks("docs/metrics.md", "") for line in block.splitlines()]
    return [line for line in shown if line.startswith("python tools/show_samples.py")]


def write_run(folder: Path, text: str) -> None:
    config = MetricsConfig(tensorboard=False, wandb="off", num_samples_saved=3)
    with MetricsWriter(folder, config, resolved_config_yaml="", say=lambda line: None) as writer:
        for iteration in range(2):
            groups = [group(f"{name}{iteration}", [text, "18"]) for name in "ab"]
            writer.write(iteration, {}, groups)


def test_the_documented_commands_show_samples(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "quickstart", "19 \x1b[2J\u202e [red]")
    newest, first = (run_in(tmp_path, command) for command in commands())
    assert newest.returncode == first.returncode == 0, newest.stderr + first.stderr
    assert newest.stdout.count("question") == 3
    assert first.stdout.count("question") == 2
    assert "iteration 0, a0 #0" in first.stdout
    assert "iteration 1" in newest.stdout
    assert "reward +1.250 = answer +1.000  length +0.250" in newest.stdout
    assert "2 tokens, finish reason: stop" in newest.stdout
    assert "reference answer: 19" in newest.stdout
    assert r"19 \x1b[2J\u202e [red]" in newest.stdout
    assert "\x1b" not in newest.stdout


def test_a_run_without_samples_is_named(tmp_path: Path) -> None:
    result = run_in(tmp_path, "python tools/show_samples.py nowhere")
    assert result.returncode == 1
    assert result.stderr.startswith("error: nowhere has no samples")
    write_run(tmp_path / "run", "19")
    result = run_in(tmp_path, "python tools/show_samples.py run --iteration 7")
    assert result.stderr == "error: iteration 7 has no samples; run has iterations 0 to 1\n"
