"""Start a Python file on several ranks, as torchrun does, with a time limit and its output in the failure."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_ranks(script: str | Path, num_ranks: int, *args: str, timeout: float = 240.0) -> str:
    """Run `script` under torchrun (standalone: it picks a free port) and return what it printed.

    Raises:
        AssertionError: a rank failed or the time was up; the message ends with the output.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, str(script), *args],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # The ranks are torchrun's children: end the whole session, then read what they had printed.
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"{script} on {num_ranks} ranks took over {timeout} s:\n{output[-6000:]}") from None
    assert process.returncode == 0, f"{script} on {num_ranks} ranks ended with {process.returncode}:\n{output[-6000:]}"
    return output
