"""One process tree in one jail, from its start to the last of it gone, measured from outside.

What comes out is `Measured`: nothing in it was said by the program, but for its output and its exit code.
"""

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass, field
from typing import Literal, Self

from megatron_k15.sandbox.cgroups import Cgroup
from megatron_k15.sandbox.errors import JailError
from megatron_k15.sandbox.jail import Backend, Jail

Stop = Literal["cpu", "wall", "output"]
CHUNK = 1 << 16
SHORTEST_WAIT_SECONDS = 0.002
LONGEST_WAIT_SECONDS = 0.1
SLACK_SECONDS = 0.05
"""A round that took longer than asked by more than this: this process itself was stopped or starved meanwhile."""
DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these, and what it starts would: `yes | head` would never end."""
SETUP_BYTES = 8 << 20
"""The jail's makers live in the same cgroup before the program does."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    cpu_seconds: float
    wall_seconds: float
    peak_memory_bytes: int
    oom_killed: bool
    stopped_for: Stop | None
    """The limit for which the sandbox ended it; None where it ended by itself."""
    exit_code: int | None
    stdout: bytes
    stderr: bytes


@dataclass(kw_only=True)
class Stream:
    """One output pipe, read up to a limit."""

    fd: int
    limit_bytes: int
    parts: list[bytes] = field(default_factory=list)
    num_bytes: int = 0

    def read(self) -> bool:
        """Take what is there, at most until the limit is passed. False once the other ends are closed."""
        while not self.is_over:
            try:
                data = os.read(self.fd, CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.num_bytes += len(data)
            self.parts.append(data)
        return True

    @property
    def is_over(self) -> bool:
        return self.num_bytes > self.limit_bytes

    def text(self) -> bytes:
        return b"".join(self.parts)[: self.limit_bytes]


class Runner:
    """Runs jails in one cgroup, one at a time. Called by the slot's thread.

    Args:
        enter: the compiled enter.cpp.
        seccomp_path: a file with the BPF program.
    """

    def __init__(self, backend: Backend, cgroup: Cgroup, *, enter: str, seccomp_path: str) -> None:
        self._backend = backend
        self._cgroup = cgroup
        self._enter = enter
        self._seccomp_path = seccomp_path
        self._num_cores = os.cpu_count() or 1

    def run(self, jail: Jail, stdin_fd: int) -> Measured:
        """Run `jail.command` with `stdin_fd` as its standard input.

        Raises:
            JailError: the jail could not be made, or not be cleared.
        """
        limits = jail.limits
        try:
            self._cgroup.drain()
            self._cgroup.begin(
                memory_bytes=limits.memory_bytes + SETUP_BYTES,
                max_tasks=limits.max_processes + self._backend.num_own_tasks,
            )
            self._backend.prepare(jail)
            try:
                return self._run_prepared(jail, stdin_fd)
            finally:
                self._backend.clear(jail)
        except OSError as error:  # no process, descriptor, memory or file to be had
            raise JailError(f"the machine must give what a jail needs; {error}") from error

    def _run_prepared(self, jail: Jail, stdin_fd: int) -> Measured:
        before = self._cgroup.usage()
        with contextlib.ExitStack() as stack:
            stdout, stderr, started = (_Pipe(stack) for _ in range(3))
            began = time.monotonic()
            pid = self._spawn(jail, stdin_fd, stdout, stderr, started)
            for pipe in (stdout, stderr, started):
                pipe.close_write_end()
            streams = [Stream(fd=pipe.read_end, limit_bytes=jail.limits.output_bytes) for pipe in (stdout, stderr)]
            try:
                stopped_for = self._watch(jail, pid, streams, began, before.cpu_seconds)
            finally:
                wall_seconds = time.monotonic() - began
                exit_code = self._end(pid)
            for stream in streams:
                stream.read()
            after = self._cgroup.usage()
            oom_killed = after.oom_kills > before.oom_kills
            if not (started.was_written() or stopped_for or oom_killed):
                raise JailError(
                    f"{self._backend.name} must set the jail up; it ended with code {exit_code}: "
                    f"{streams[1].text()[-500:].decode(errors='replace').strip()}"
                )
        if stopped_for is None and any(stream.is_over for stream in streams):
            stopped_for = "output"
        return Measured(
            cpu_seconds=after.cpu_seconds - before.cpu_seconds,
            wall_seconds=wall_seconds,
            peak_memory_bytes=self._cgroup.peak_memory_bytes(),
            oom_killed=oom_killed,
            stopped_for=stopped_for,
            exit_code=None if stopped_for else exit_code,
            stdout=streams[0].text(),
            stderr=streams[1].text(),
        )

    def _end(self, pid: int) -> int:
        """Nothing of the run is alive afterwards, nor a zombie; the exit code of the jail's maker."""
        killed = self._cgroup.drain()
        _, status = os.waitpid(pid, 0)
        # Killed together, the jail's first process may end after its maker, and then is ours to wait for.
        for orphan in killed:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(orphan, 0)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def _spawn(self, jail: Jail, stdin_fd: int, stdout: "_Pipe", stderr: "_Pipe", started: "_Pipe") -> int:
        limits = jail.limits
        seccomp_fd = os.open(self._seccomp_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            command = [self._enter, str(0 if self._backend.enters_as_root else jail.uid)]
            command += [str(limits.memory_bytes), str(limits.disk_bytes), *self._cgroup.process_files, "--"]
            command += self._backend.command(jail, seccomp_fd=seccomp_fd, start_fd=started.write_end)
            # A descriptor duplicated onto itself is inherited; all others of ours close by themselves.
            kept = {stdin_fd: 0, stdout.write_end: 1, stderr.write_end: 2}
            kept |= {fd: fd for fd in (seccomp_fd, started.write_end)}
            actions = [(os.POSIX_SPAWN_DUP2, source, target) for source, target in kept.items()]
            return os.posix_spawn(command[0], command, {}, file_actions=actions, setsid=True, setsigdef=DEFAULT_SIGNALS)
        finally:
            os.close(seccomp_fd)

    def _watch(self, jail: Jail, pid: int, streams: list[Stream], began: float, cpu_before: float) -> Stop | None:
        """Read the output until the process ends (None) or passes a limit."""
        limits = jail.limits
        deadline = began + limits.wall_seconds
        cpu_left = limits.cpu_seconds
        with _Poll(pid, streams) as poll:
            asked = time.monotonic()
            while True:
                wait = min(deadline - asked, cpu_left / self._num_cores, LONGEST_WAIT_SECONDS)
                wait = max(wait, SHORTEST_WAIT_SECONDS)
                poll.wait(wait)
                if any(stream.is_over for stream in streams):
                    return "output"
                if poll.has_ended:
                    return None
                cpu_left = limits.cpu_seconds - (self._cgroup.cpu_seconds() - cpu_before)
                if cpu_left <= 0:
                    return "cpu"
                late, asked = time.monotonic() - asked - wait, time.monotonic()
                if late > SLACK_SECONDS:
                    # Stopped or starved ourselves: that time is nobody's fault, and not the program's.
                    deadline += late
                if asked >= deadline:
                    return "wall"


class _Poll:
    """Waits for output and for the end of a process."""

    def __init__(self, pid: int, streams: list[Stream]) -> None:
        self.has_ended = False
        self._pidfd = os.pidfd_open(pid)
        self._streams = {stream.fd: stream for stream in streams}
        self._poll = select.poll()
        for fd in (self._pidfd, *self._streams):
            self._poll.register(fd, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._pidfd)

    def wait(self, seconds: float) -> None:
        """Until something comes, at most so long; then read it."""
        for fd, _ in self._poll.poll(1000 * seconds):
            if fd == self._pidfd:
                self.has_ended = True
            elif not self._streams[fd].read():
                self._poll.unregister(fd)


class _Pipe:
    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.read_end, False)
        stack.callback(os.close, self.read_end)
        stack.callback(self.close_write_end)

    def close_write_end(self) -> None:
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def was_written(self) -> bool:
        try:
            return os.read(self.read_end, 1) == b"S"
        except BlockingIOError:
            return False
