"""Curves of runs from their own records: a picture, and one line per run that says what changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_k15.config import MetricsConfig
from megatron_k15.metrics import MetricsWriter
from tests.launch import ROOT
from tools.plot_curves import main


def _run(run_dir: Path, *, start: float, end: float, **more: float) -> None:
    with MetricsWriter(run_dir, MetricsConfig(tensorboard=False, wandb="off"), resolved_config_yaml="") as writer:
        interval = {"accuracy_low": 0.1, "accuracy_high": 0.9}
        change = {"change": end - start, "change_low": 0.125, "change_high": 0.375}
        writer.write_evaluation(0, {"accuracy": start, **interval})
        for iteration in range(3):
            values = {
                "reward/accuracy": float("nan") if iteration == 1 else 0.5,
                "rollout/mean_response_tokens": 9.0,
                "time/iteration_seconds": 60.0,
                **(more if iteration != 1 else {}),
            }
            writer.write(iteration, values, [])
        writer.write_evaluation(3, {"accuracy": end, **interval, **change})


def _tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tools/plot_curves.py", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_runs_are_drawn_and_described(tmp_path: Path) -> None:
    _run(tmp_path / "one", start=0.25, end=0.5)
    _run(tmp_path / "two", start=0.25, end=0.75)
    result = _tool(tmp_path / "one", tmp_path / "two", "--output", tmp_path / "curves.png")
    assert result.returncode == 0, result.stderr
    assert (
        "one: 3 iterations, 3.0 min, held-out accuracy 0.250 -> 0.500, change +0.250 (paired 95% interval +0.125 to "
        "+0.375)"
    ) in result.stdout
    assert "two: 3 iterations" in result.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_of_several_kinds_of_prompts_has_a_curve_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(tmp_path / "mixed", start=0.25, end=0.5, **{"reward/accuracy_code": 0.25, "reward/accuracy_math": 0.75})
    from matplotlib.axes import Axes

    drawn: dict[str, list[tuple[float, float]]] = {}
    plot = Axes.plot

    def noted(self: Axes, steps: list[float], values: list[float], *rest: object, label: str, **more: object) -> object:
        drawn[label] = list(zip(steps, values, strict=True))
        return plot(self, steps, values, *rest, label=label, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Axes, "plot", noted)
    assert main([str(tmp_path / "mixed"), "--output", str(tmp_path / "curves.png")]) == 0
    assert drawn["mixed: code"] == [(0, 0.25), (2, 0.25)]
    assert drawn["mixed: math"] == [(0, 0.75), (2, 0.75)]


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    result = _tool(tmp_path, "--output", tmp_path / "curves.png")
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: a run directory has a metrics.jsonl; {tmp_path} has none")
    assert not (tmp_path / "curves.png").exists()
