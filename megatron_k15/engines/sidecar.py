"""The life of one vLLM: NEW → STARTING → READY → STOPPED.

A sidecar is a guardian process (`guardian.py`) with vLLM's processes below it. It may die at any moment; then
`is_alive` is False and a new Sidecar takes its place.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from megatron_k15.config import EngineConfig
from megatron_k15.engines.client import EngineClient, EngineGone
from megatron_k15.engines.guardian import SCRATCH_PREFIX, clear_leftovers
from megatron_k15.engines.log_excerpt import failure_reason, last_line, log_lines
from megatron_k15.engines.server_command import server_command, server_environment
from megatron_k15.errors import EngineError

NUM_PORT_ATTEMPTS = 3
STOP_SECONDS = 15.0
OnProgress = Callable[[str], None]


class PortTakenError(Exception):
    """Someone bound a port between vLLM's choice and its use: vLLM's processes meet over ports of 127.0.0.1."""


class Sidecar:
    def __init__(
        self,
        *,
        index: int,
        config: EngineConfig,
        model_dir: Path,
        dtype: str,
        log_path: Path,
        backend: str,
        on_cpu: bool,
        vocab_size: int,
        gpus: Sequence[int] | None = None,
        colocate: str = "off",
        runner: str = "generate",
        on_progress: OnProgress = lambda text: None,
    ) -> None:
        """`on_progress` is told about once a second what the start waits for."""
        self.index = index
        self.client: EngineClient | None = None
        self._config = config
        self._model_dir = model_dir
        self._dtype = dtype
        self._log_path = log_path
        self._log_start = 0
        self._backend = backend
        self._on_cpu = on_cpu
        self._vocab_size = vocab_size
        self._gpus = gpus
        self._colocate = colocate
        self._runner = runner
        self._on_progress = on_progress
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> EngineClient:
        """Start vLLM and wait until it has answered a request.

        Raises:
            EngineError: vLLM ended or was not ready in time; the message gives vLLM's reason.
        """
        for _ in range(NUM_PORT_ATTEMPTS):
            try:
                return await self._start_once()
            except PortTakenError:
                await self.stop()
            except BaseException:
                await self.stop()
                raise
        raise EngineError(
            f"vLLM {self.index} needs free ports on 127.0.0.1; {NUM_PORT_ATTEMPTS} times in a row one was taken "
            f"between choosing and binding it; see {self._log_path}"
        )

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of this vLLM: API server, engine core, workers; empty once it is gone."""
        return tuple(process.pid for process in self._processes())

    def cpu_seconds(self) -> float:
        """CPU time that vLLM's living processes have used."""
        total = 0.0
        for process in self._processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def resident_bytes(self) -> int:
        """Resident memory of vLLM's living processes."""
        total = 0
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def exit_summary(self) -> str:
        """How vLLM ended and why, for a message."""
        code = self._process.poll() if self._process else None
        ended = "is running" if code is None else f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"{ended} (log: {self._log_path}): {failure_reason(self._log())}"

    async def stop(self) -> None:
        """Kill all of vLLM's processes and remove what they left. Safe to call at any time, also twice."""
        if self.client is not None:
            await self.client.close()
            self.client = None
        if self._process is not None:
            await asyncio.to_thread(self._stop_process, self._process)

    async def _start_once(self) -> EngineClient:
        clear_leftovers()
        scratch_dir = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))  # mode 0700
        socket_path = scratch_dir / "http.sock"
        self._launch(socket_path, scratch_dir)
        self.client = EngineClient(socket_path, index=self.index, vocab_size=self._vocab_size)
        await self._wait_until_ready(self.client)
        return self.client

    def _launch(self, socket_path: Path, scratch_dir: Path) -> None:
        command = server_command(
            self._config,
            model_dir=self._model_dir,
            dtype=self._dtype,
            socket_path=socket_path,
            backend=self._backend,
            on_cpu=self._on_cpu,
            seed=self.index,
            colocate=self._colocate,
            runner=self._runner,
        )
        environment = server_environment(
            self._config, os.environ, scratch_dir=scratch_dir, on_cpu=self._on_cpu, gpus=self._gpus
        )
        guardian = [sys.executable, "-m", "megatron_k15.engines.guardian", str(os.getpid()), str(scratch_dir)]
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*guardian, *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _wait_until_ready(self, client: EngineClient) -> None:
        started = time.monotonic()
        limit_seconds = self._config.startup_timeout_seconds
        told = 0.0
        while not await client.is_up():
            waited = time.monotonic() - started
            if not self.is_alive:
                raise self._start_error()
            if waited > limit_seconds:
                raise EngineError(
                    f"vLLM {self.index} must answer within engine.startup_timeout_seconds ({limit_seconds:g} s) of its "
                    f"start; its last words (log: {self._log_path}): {last_line(self._log(), 300)}"
                )
            if waited - told >= 1.0:
                told = waited
                self._on_progress(f"vLLM {self.index}: loading, {waited:.0f} s: {last_line(self._log())}")
            await asyncio.sleep(0.1)
        self._on_progress(f"vLLM {self.index}: first request, {time.monotonic() - started:.0f} s")
        try:
            warm_up = client.warm_up if self._runner == "generate" else client.warm_up_scores
            await warm_up(limit_seconds=max(1.0, limit_seconds - (time.monotonic() - started)))
        except EngineGone as error:
            raise EngineError(f"vLLM {self.index} died of its first request; it {self.exit_summary()}") from error
        self._on_progress(f"vLLM {self.index}: ready after {time.monotonic() - started:.0f} s")

    def _start_error(self) -> Exception:
        if any("Address already in use" in line for line in self._log()):
            return PortTakenError()
        return EngineError(
            f"vLLM {self.index} must start from {self._model_dir} ({self._dtype}, tensor parallel "
            f"{self._config.tensor_parallel_size}); it {self.exit_summary()}"
        )

    def _log(self) -> list[str]:
        """The lines of this start; the file may hold those of earlier ones."""
        return log_lines(self._log_path, self._log_start)

    def _processes(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        try:
            below = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [process for process in below if _is_vllm(process)]

    def _stop_process(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # The guardian itself is stuck or stopped.
            for pid in self.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.kill()
            process.wait(STOP_SECONDS)


def _is_vllm(process: psutil.Process) -> bool:
    """False for Python's resource trackers, which hold nothing of ours."""
    try:
        return "resource_tracker" not in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
