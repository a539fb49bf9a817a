"""Worker processes that judge hostile text, each job under a time limit.

A pool of plain subprocesses speaking JSON lines over a socket pair: nothing that comes back is unpickled, and a worker
does not import the run's main module. Every worker is driven by a thread of its own, so that the event loop never
waits; it is started by its first job. Past its limit, or on its death, a worker is killed and the next job starts a
new one.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import megatron_k15
from megatron_k15.errors import RewardError

START_SECONDS = 120.0
"""Limit for starting Python and importing a verifier's library, which is no answer's fault."""
STDERR_SHOWN = 2000


class WorkerPool:
    """`await judge(job)` from any event loop; `close()` from any thread.

    Args:
        num_workers: processes, and jobs judged at once.
        timeout_seconds: limit of one job, from the moment a worker has it.
    """

    def __init__(self, num_workers: int, timeout_seconds: float) -> None:
        self.num_timeouts = 0
        self.num_deaths = 0
        self._timeout_seconds = timeout_seconds
        self._executor = ThreadPoolExecutor(num_workers, thread_name_prefix="reward-worker")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        self._closed = False

    async def judge(self, job: Mapping[str, Any]) -> bool:
        """The verdict on one job of `judging.py`; False past the time limit, and after killing two workers.

        Raises:
            RewardError: a worker could not be started.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._judge, job)

    def close(self) -> None:
        """Kill every worker; jobs under way end as wrong."""
        with self._lock:
            self._closed = True
            workers = list(self._workers)
        for worker in workers:
            worker.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)
        for worker in workers:
            worker.release()

    def _judge(self, job: Mapping[str, Any]) -> bool:
        for _ in range(2):
            worker = self._worker()
            if worker is None:
                return False
            worker.prepare(job["kind"])
            try:
                return worker.ask(job, self._timeout_seconds)
            except TimeoutError:
                self._count("num_timeouts")
                self._discard(worker)
                return False
            except _WorkerDiedError:
                # Perhaps this job killed it, perhaps the out-of-memory killer of the machine: once more.
                self._discard(worker)
                self._count("num_deaths")
        return False

    def _count(self, name: str) -> None:
        with self._lock:
            setattr(self, name, getattr(self, name) + 1)

    def _worker(self) -> "_Worker | None":
        """This thread's worker, started where it has none; None once the pool is closed."""
        worker: _Worker | None = getattr(self._local, "worker", None)
        if worker is None:
            with self._lock:
                if self._closed:
                    return None
                # Started under the lock: `close` sees every worker, or none is started any more.
                worker = _Worker()
                self._workers.add(worker)
            self._local.worker = worker
        return worker

    def _discard(self, worker: "_Worker") -> None:
        worker.kill()
        worker.release()
        self._local.worker = None
        with self._lock:
            self._workers.discard(worker)


class _WorkerDiedError(Exception):
    """The process ended in the middle of a job."""


class _Worker:
    """One process. Used by one thread; `kill` by any."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        # A file, not a pipe: nobody reads it while the worker runs, and a full pipe would stop the worker.
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by release)
        root = str(Path(megatron_k15.__file__).resolve().parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "megatron_k15.rewards.judging", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
                # One thread per worker: numpy and its BLAS would take every core for a comparison.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
                process_group=0,  # Ctrl-C is the run's to handle
            )
        self._socket = ours
        self._buffer = b""
        self._prepared: set[str] = set()

    def prepare(self, kind: str) -> None:
        """Import what jobs of this kind need, outside their time limit.

        Raises:
            RewardError: it failed; the message ends with what the worker printed.
        """
        if kind in self._prepared:
            return
        try:
            self.ask({"kind": "prepare", "for": kind}, START_SECONDS)
        except (_WorkerDiedError, TimeoutError) as error:
            self.kill()
            self._stderr.seek(0)
            printed = self._stderr.read()[-STDERR_SHOWN:].decode(errors="replace")
            raise RewardError(
                f"a reward worker for {kind} must start within {START_SECONDS:.0f} s; it did not: {printed}"
            ) from error
        self._prepared.add(kind)

    def ask(self, job: Mapping[str, Any], seconds: float) -> Any:
        """Raises:
        TimeoutError: no answer within `seconds`.
        _WorkerDiedError: the process ended.
        """
        deadline = time.monotonic() + seconds
        try:
            self._socket.settimeout(seconds)
            self._socket.sendall(json.dumps(job).encode() + b"\n")
            while not self._buffer.endswith(b"\n"):
                self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
                received = self._socket.recv(4096)
                if not received:
                    raise _WorkerDiedError
                self._buffer += received
        except (ConnectionError, BrokenPipeError) as error:
            raise _WorkerDiedError from error
        answer, self._buffer = json.loads(self._buffer), b""
        return answer

    def kill(self) -> None:
        """End the process. Its own thread, waiting for an answer, then sees it gone."""
        self._process.kill()
        self._process.wait()

    def release(self) -> None:
        """Close the files; only when no thread can be reading them any more."""
        self._socket.close()
        self._stderr.close()
