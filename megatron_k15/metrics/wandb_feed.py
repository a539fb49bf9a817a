"""wandb in a process of its own, so that it can neither hang nor stop a run.

A thread writes JSON lines to the standard input of `wandb_process.py`; a process that fails, hangs or falls behind
costs one warning and the curves in wandb, nothing else.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from megatron_k15.config import MetricsConfig
from megatron_k15.metrics.jsonl import json_line

CLOSE_SECONDS = 30.0
"""How long the end of a run waits for wandb to write or send what it has."""
MAX_WAITING = 10_000
"""Records kept for a slow wandb; beyond it, it counts as hung."""


class WandbFeed:
    """`log` never blocks. Args:
    run_dir: wandb writes below `run_dir/wandb`; its output is in `run_dir/wandb/process.log`.
    warn: called at most once, with one line.
    """

    def __init__(self, run_dir: Path, config: MetricsConfig, config_yaml: str, *, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._warned = False
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_WAITING)
        directory = (run_dir / "wandb").resolve()
        directory.mkdir(parents=True, exist_ok=True)
        self._log_path = directory / "process.log"
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "megatron_k15.metrics.wandb_process"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": _python_path()},
                process_group=0,  # Ctrl-C is the run's to handle; `close` ends wandb's own children too
            )
        header = {"directory": str(run_dir.resolve()), "project": config.wandb_project, "mode": config.wandb}
        self._lines.put(json_line({**header, "name": run_dir.resolve().name, "config_yaml": config_yaml}))
        self._thread = threading.Thread(target=self._feed, name="wandb-feed", daemon=True)
        self._thread.start()

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        try:
            self._lines.put_nowait(json_line({"iteration": iteration, "values": values}))
        except queue.Full:
            self._give_up("it does not keep up")

    def close(self) -> None:
        """Let wandb finish within `CLOSE_SECONDS`, then end it and its children."""
        try:
            self._lines.put_nowait(None)
            code = self._process.wait(CLOSE_SECONDS)
            if code:
                self._give_up(f"it ended with {code}")
        except (queue.Full, subprocess.TimeoutExpired):
            self._give_up(f"it did not finish within {CLOSE_SECONDS:.0f} s")
        self._kill()
        self._thread.join(CLOSE_SECONDS)

    def _feed(self) -> None:
        assert self._process.stdin is not None
        try:
            with self._process.stdin as pipe:
                while (line := self._lines.get()) is not None:
                    pipe.write(line.encode())
                    pipe.flush()
        except (BrokenPipeError, ConnectionError):
            self._give_up("it ended early")

    def _give_up(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(f"warning: wandb is off for the rest of the run: {what}; see {self._log_path}")

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _python_path() -> str:
    root = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
