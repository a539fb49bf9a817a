"""Runs the real program on the tiny model, and looks for what it left behind."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Self

from tests.launch import MARK, ROOT, kill_marked, marked


def write_prompts(directory: Path, *, num_train: int = 24, num_held_out: int = 4) -> list[str]:
    """Prompt files, and the overrides that name them."""
    for name, first, count in (("train", 0, num_train), ("held_out", 1000, num_held_out)):
        lines = [
            json.dumps({"id": f"{name}-{i}", "prompt": f"{i} + 1 =", "answer": str(i + 1)})
            for i in range(first, first + count)
        ]
        (directory / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return [f"prompts.files=[{directory}/train.jsonl]", f"evaluation.files=[{directory}/held_out.jsonl]"]


def tiny_overrides(model_dir: Path, directory: Path) -> list[str]:
    """A run of seconds per iteration. A random model is never right: the format term gives rewards that differ."""
    return [
        *write_prompts(directory),
        f"run_dir={directory / 'run'}",
        f"model.path={model_dir}",
        "model.chat_template=false",
        "model.dtype=fp32",
        "prompts.max_prompt_tokens=32",
        "rollout.prompts_per_iteration=4",
        "rollout.responses_per_prompt=4",
        "rollout.max_response_tokens=12",
        "reward.format_pattern=^[!-O]",
        "reward.format_penalty=1.0",
        "train.learning_rate=1e-3",
        "engine.max_model_len=128",
        "engine.kv_cache_bytes=67108864",
        "engine.health_interval_seconds=0.5",
        "evaluation.num_prompts=4",
        "metrics.tensorboard=false",
        "metrics.wandb=off",
    ]


class TrainRun:
    """`megatron_k15.train_rl` in a session of its own, its output read line by line."""

    def __init__(self, overrides: list[str], *, num_ranks: int = 1, max_restarts: int = 0) -> None:
        launcher = ["-m"]
        if num_ranks > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
            launcher += [f"--max-restarts={max_restarts}", "-m"]
        self.mark = uuid.uuid4().hex
        self.lines: list[str] = []
        self._shared_memory = _shared_memory()
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, *launcher, "megatron_k15.train_rl", *overrides],
            cwd=ROOT,
            env={**os.environ, MARK: self.mark, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        kill_marked(self.mark)

    def wait_for(self, text: str, seconds: float) -> str:
        """The next line with `text` in it."""
        return self._wait_for(re.escape(text), seconds)

    def wait_for_next(self, pattern: str, seconds: float) -> str:
        """As `wait_for` with a regular expression, past what is printed already."""
        while not self._queue.empty():
            self._next_line(time.monotonic())
        return self._wait_for(pattern, seconds)

    def _wait_for(self, pattern: str, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while (line := self._next_line(deadline)) is not None:
            if re.search(pattern, line):
                return line
        raise AssertionError(f"no {pattern!r} within {seconds} s:\n" + "\n".join(self.lines[-40:]))

    def finish(self, seconds: float) -> int:
        """The exit code; all output is in `lines` then."""
        deadline = time.monotonic() + seconds
        while self._next_line(deadline) is not None:
            pass
        assert not self._timed_out(deadline), f"still running after {seconds} s:\n" + "\n".join(self.lines[-40:])
        return self.process.wait(timeout=30)

    def interrupt(self) -> None:
        """Ctrl-C: a terminal signals the whole foreground process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def processes(self, name: str = "") -> list[int]:
        """Process ids of the run whose command line has `name` in it."""
        return marked(self.mark, name)

    def leftovers(self, seconds: float = 20.0) -> list[str]:
        """Processes and shared memory that are still there; the guardians get a moment to clear up."""
        deadline = time.monotonic() + seconds
        while True:
            left = [f"process {pid}" for pid in self.processes()]
            added = _shared_memory() - self._shared_memory
            left += sorted(added - _mapped(added))
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.2)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip())
        self._queue.put(None)

    def _next_line(self, deadline: float) -> str | None:
        try:
            line = self._queue.get(timeout=max(0.01, deadline - time.monotonic()))
        except queue.Empty:
            return None
        if line is not None:
            self.lines.append(line)
        return line

    def _timed_out(self, deadline: float) -> bool:
        return time.monotonic() >= deadline and self.process.poll() is None


def _shared_memory() -> set[str]:
    return {str(path) for path in Path("/dev/shm").iterdir() if path.name.startswith(("k15_", "vllm_", "psm_"))}


def _mapped(paths: set[str]) -> set[str]:
    """Those of `paths` that a living process has mapped: other programs on this machine use shared memory too."""
    found = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            text = maps.read_text(errors="replace")
        except OSError:
            continue
        found |= {path for path in paths if path in text}
    return found
