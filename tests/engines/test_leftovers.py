"""A guardian that is killed together with its vLLM: the next start clears what both left, and nothing else."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_k15.engines.guardian import SCRATCH_PREFIX, SEGMENTS_FILE, clear_leftovers
from tests.launch import ROOT

MAPS_A_SEGMENT = """
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR, 0o600)
os.ftruncate(fd, 4096)
memory = mmap.mmap(fd, 4096)
time.sleep(120)
"""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """A guardian over a process that maps shared memory: (guardian, scratch directory, segment)."""
    scratch = tmp_path / f"{SCRATCH_PREFIX}test"
    scratch.mkdir()
    segment = Path("/dev/shm") / f"psm_k15_{uuid.uuid4().hex}"
    command = [sys.executable, "-m", "megatron_k15.engines.guardian", str(os.getpid()), str(scratch)]
    guardian = subprocess.Popen([*command, sys.executable, "-c", MAPS_A_SEGMENT, str(segment)], cwd=ROOT)
    _wait_until(lambda: (scratch / SEGMENTS_FILE).exists())
    yield guardian, scratch, segment
    guardian.kill()
    guardian.wait()
    segment.unlink(missing_ok=True)


def _wait_until(holds) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "waited 30 s"
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_what_a_living_guardian_has_stays(guarded, tmp_path: Path) -> None:
    _, scratch, segment = guarded
    clear_leftovers(tmp_path)
    assert segment.exists()
    assert scratch.exists()


def test_what_a_killed_guardian_left_is_cleared(guarded, tmp_path: Path) -> None:
    guardian, scratch, segment = guarded
    (child,) = _children(guardian.pid)
    for pid in (guardian.pid, child):
        os.kill(pid, signal.SIGKILL)
    guardian.wait()
    _wait_until(lambda: not Path(f"/proc/{child}/maps").exists() or not Path(f"/proc/{child}/maps").read_text())
    assert segment.exists()
    clear_leftovers(tmp_path)
    assert not segment.exists()
    assert not scratch.exists()


def test_only_shared_memory_of_vllm_s_kind_is_removed(tmp_path: Path) -> None:
    """The list is a file that somebody may have written to."""
    scratch, precious = tmp_path / f"{SCRATCH_PREFIX}old", tmp_path / "precious"
    scratch.mkdir()
    precious.write_text("data")
    (scratch / "guardian.lock").touch()
    (scratch / SEGMENTS_FILE).write_text(f"{precious}\n/dev/shm/../shm/other\n")
    clear_leftovers(tmp_path)
    assert precious.exists()
    assert not scratch.exists()
