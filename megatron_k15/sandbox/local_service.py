"""A sandbox of our own: STOPPED → (start) → READY → (died, or silent for too long) → STOPPED → …

Started on a private Unix socket, with a guardian that ends it when we end. Whoever needs it asks `ready()`, which
starts it where it is not running. A watching thread finds one that is alive but silent, and kills it: what was asked of
it fails at once, and is asked again.
"""

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import megatron_k15
from megatron_k15.sandbox.client import SandboxClient, SandboxGoneError
from megatron_k15.sandbox.errors import SandboxError
from megatron_k15.sandbox.values import TOKEN_VARIABLE

START_SECONDS = 60.0
STOP_SECONDS = 15.0
LONGEST_QUEUE_SECONDS = 7 * 24 * 3600.0
STDERR_SHOWN = 2000
SIGNALS = 128
"""Exit codes above this one, and negative ones: ended by a signal."""


class LocalService:
    """Used from any thread. A context manager.

    Args:
        options: more of the service's command line, e.g. `("--slots", "4")`.
        max_restarts: over its life, before it gives up.
        hang_timeout_seconds: a service that has not answered `/health` for so long is killed.
        log_path: where its standard error goes, appended; None keeps it in a temporary file.
    """

    def __init__(
        self,
        options: Sequence[str] = (),
        *,
        max_restarts: int = 5,
        hang_timeout_seconds: float = 30.0,
        log_path: Path | None = None,
    ) -> None:
        self.num_restarts = 0
        self._options = tuple(options)
        self._max_restarts = max_restarts
        self._hang_timeout_seconds = hang_timeout_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready_process: subprocess.Popen[bytes] | None = None
        """`_process`, once it has said that it is ready: from then on it is watched."""
        self._closed = threading.Event()
        self._directory = tempfile.TemporaryDirectory(prefix="k15-sandbox-socket-")
        self._log_path = log_path or Path(self._directory.name) / "log"
        # Silence is the watcher's business: an answer may take as long as the queue is.
        self._client = SandboxClient(f"unix:{self._directory.name}/socket", timeout_seconds=LONGEST_QUEUE_SECONDS)
        self._watcher = threading.Thread(target=self._watch, name="sandbox-watch", daemon=True)

    def __enter__(self) -> "LocalService":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The guardian's; None before the first start."""
        return self._process.pid if self._process else None

    def ready(self) -> SandboxClient:
        """A client of a service that has been started; starts it where it is not running.

        Raises:
            SandboxError: it does not start, or has died too often.
        """
        with self._lock:
            if self._closed.is_set():
                raise SandboxError("the sandbox is closed")
            if self._process is None:
                self._start()
                self._watcher.start()
            while (code := self._process.poll()) is not None:  # type: ignore[union-attr]
                if 0 < code <= SIGNALS and self._process is not self._ready_process:
                    raise SandboxError(f"the sandbox must start; it ended with code {code}; {self._last_words()}")
                # It has run before, or something has killed it: once more.
                self._count_restart()
                self._start()
            return self._client

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            if self._process is not None:
                self._stop(self._process)
        if self._watcher.is_alive():
            self._watcher.join()
        self._directory.cleanup()

    def _count_restart(self) -> None:
        if self.num_restarts >= self._max_restarts:
            raise SandboxError(f"the sandbox may be restarted {self._max_restarts} times; {self._last_words()}")
        self.num_restarts += 1

    def _start(self) -> None:
        root = str(Path(megatron_k15.__file__).resolve().parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "megatron_k15.sandbox", "--listen", self._client.address]
        command += ["--parent", str(os.getpid()), *self._options]
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                # Nobody else reaches its socket: a token that is meant for another sandbox is not asked for here.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), TOKEN_VARIABLE: ""},
                start_new_session=True,  # Ctrl-C is the run's to handle
            )
        if _says_ready(self._process, time.monotonic() + START_SECONDS):
            self._ready_process = self._process
        else:
            self._stop(self._process)

    def _watch(self) -> None:
        """Kill a service that is alive and says nothing; those who wait for it then start another."""
        watched, heard = None, 0.0
        while not self._closed.wait(min(1.0, self._hang_timeout_seconds / 4)):
            process = self._ready_process
            if process is None or process.poll() is not None:
                continue
            if process is not watched:
                watched, heard = process, time.monotonic()
            with contextlib.suppress(SandboxGoneError):
                self._client.health(timeout_seconds=self._hang_timeout_seconds)
                heard = time.monotonic()
            if time.monotonic() - heard > self._hang_timeout_seconds and process.poll() is None:
                self._stop(process)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # The guardian itself is stopped: its server dies with it, and the next guardian clears up.
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            return f"its last words: {self._log_path.read_bytes()[-STDERR_SHOWN:].decode(errors='replace').strip()}"
        return "it left no log"


def _says_ready(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Whether it prints its line before the deadline and before its end."""
    assert process.stdout is not None
    # Not select.select: a trainer with many files open has descriptors beyond its 1024.
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    while time.monotonic() < deadline:
        if poll.poll(100):
            return process.stdout.readline().startswith(b"sandbox ready")
    return False
