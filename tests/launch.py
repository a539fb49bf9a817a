"""Start a Python file on several ranks, as torchrun does, with a time limit and its output in the failure."""

import os
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = "K15_TEST_RUN"
"""Every process that a test starts with this variable passes it on, so that none can hide."""


def run_ranks(script: str | Path, num_ranks: int, *args: str, timeout: float = 480.0) -> str:
    """Run `script` under torchrun (standalone: it picks a free port) and return what it printed.

    Raises:
        AssertionError: a rank failed or the time was up; the message ends with the output.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    mark = uuid.uuid4().hex
    environment = {**os.environ, MARK: mark, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, str(script), *args],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # torchrun gives each rank a session of its own. Then read what they had printed.
        kill_marked(mark)
        output, _ = process.communicate(timeout=60)
        raise AssertionError(f"{script} on {num_ranks} ranks took over {timeout} s:\n{output[-6000:]}") from None
    finally:
        kill_marked(mark)
    assert process.returncode == 0, f"{script} on {num_ranks} ranks ended with {process.returncode}:\n{output[-6000:]}"
    return output


def marked(mark: str, name: str = "") -> list[int]:
    """Process ids of those that bear `mark`, and have `name` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if mark in (entry / "environ").read_text(errors="replace"):
                    command = (entry / "cmdline").read_text(errors="replace")
                    found += [int(entry.name)] if name in command else []
    return found


def kill_marked(mark: str) -> None:
    for pid in marked(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
