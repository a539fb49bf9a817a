"""docs/joining.md as a user follows it: a training run on this host, the shown command on another one."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT, code_blocks
from tests.engines.joining.hosts import Host
from tests.train_run import TrainRun, tiny_overrides

SHOWN = "10.0.0.1:29700"


def _commands() -> tuple[str, str, str]:
    """The secret; the field and the command that name the address."""
    here, there = code_blocks("docs/joining.md", "bash")
    (token,) = re.findall(r"export K15_JOIN_TOKEN=(\w+)", here)
    (field,) = re.findall(r"join\.listen=\S+", here)
    return token, field, there.strip()


def test_a_run_goes_on_when_its_guest_is_unplugged(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, field, command = _commands()
    monkeypatch.setenv("K15_JOIN_TOKEN", token)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    long = ["num_iterations=1000", "rollout.max_response_tokens=90", "join.patience_seconds=12"]
    with Host() as host:
        address = f"{host.here}:{_free_port(host.here)}"
        listen = field.replace(SHOWN, address)
        with TrainRun([*tiny_overrides(tiny_model_dir, tmp_path), *long, listen]) as run:
            serving = subprocess.Popen(
                host.command("bash", "-euc", f"exec {command.replace(SHOWN, address)}"), cwd=tmp_path
            )
            run.wait_for("has weight version", 200)
            run.wait_for("| reward", 60)
            run.wait_for("| reward", 60)
            host.unplug()
            run.wait_for("is dropped: ", 60)
            run.wait_for("| reward", 60)
            run.wait_for("| reward", 60)
            serving.terminate()
            assert serving.wait(60) == 0
            run.interrupt()
            assert run.finish(60) == 130, "\n".join(run.lines[-40:])
            assert run.leftovers() == []
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    answered = [record["engine/answered_by_joined"] for record in records if "engine/answered_by_joined" in record]
    assert answered[-1] > 0
    assert answered[-1] == answered[-2]
    gaps = [record["sync/logprob_gap_mean"] for record in records if "sync/logprob_gap_mean" in record]
    assert max(gaps) < 1e-4


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
