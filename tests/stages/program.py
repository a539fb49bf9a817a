"""A stage program on the tiny model, in this process: stopped and gone on with, and what it wrote."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_k15.packed_stream import PackedStream

Main = Callable[[list[str]], int]


def run_arguments(model: Path, rows: Path, phases: Path) -> list[str]:
    return [
        f"--config={phases}",
        f"model.path={model}",
        "model.dtype=fp32",
        f"data.files=[{rows}]",
        "metrics.tensorboard=false",
        "metrics.wandb=off",
    ]


def records(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def losses(run_dir: Path) -> list[float]:
    return [record["train/loss"] for record in records(run_dir)]


def run_stopped(
    main: Main, arguments: list[str], stop_at: int, monkeypatch: pytest.MonkeyPatch, stream: type = PackedStream
) -> None:
    """Ctrl-C before step `stop_at`, then the same command again, to its end."""
    plain_step = stream.step

    def stopping(self, number: int):  # type: ignore[no-untyped-def]
        if number == stop_at:
            raise KeyboardInterrupt
        return plain_step(self, number)

    monkeypatch.setattr(stream, "step", stopping)
    assert main(arguments) == 130
    monkeypatch.setattr(stream, "step", plain_step)
    assert main(arguments) == 0


def assert_same_run(one: Path, other: Path) -> None:
    """Losses and exported weights, bit for bit."""
    assert losses(one) == losses(other)
    ours, theirs = (load_file(run_dir / "hf" / "model.safetensors") for run_dir in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
