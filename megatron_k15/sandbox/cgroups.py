"""One cgroup per slot, made beforehand and used again and again (§2.6.4): limits in, measured use out.

cgroup v1 (one tree per controller) and v2 (one tree for all) both exist in the field; the two classes share one face,
and `cgroup_trees.py` finds out which a machine has.
The counters kept here are what verdicts are made of: no program can write them.
"""

import contextlib
import os
import signal
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from megatron_k15.sandbox.errors import JailError

DRAIN_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a cgroup has counted since it was made."""

    cpu_seconds: float
    oom_kills: int


class Cgroup(ABC):
    """A slot's cgroup. Between runs it holds no process."""

    @property
    @abstractmethod
    def process_files(self) -> list[str]:
        """Files to which a process writes its id to join, one per tree."""

    @abstractmethod
    def begin(self, *, memory_bytes: int, max_tasks: int) -> None:
        """Set the limits of the next run and start its peak from what is held now."""

    @abstractmethod
    def usage(self) -> Usage: ...

    @abstractmethod
    def cpu_seconds(self) -> float:
        """CPU time of all its processes, living and dead, since the cgroup was made."""

    @abstractmethod
    def peak_memory_bytes(self) -> int:
        """The most it held since `begin`, above what it held then."""

    @abstractmethod
    def remove(self) -> None: ...

    @abstractmethod
    def _forbid_new_processes(self) -> None: ...

    def drain(self) -> set[int]:
        """Kill every process of the cgroup and wait until none is left; the process ids of those that were.

        Raises:
            JailError: some would not go.
        """
        deadline = time.monotonic() + DRAIN_SECONDS
        pause = 0.0005
        killed: set[int] = set()
        while pids := self.processes():
            killed.update(pids)
            self._forbid_new_processes()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise JailError(f"processes must end within {DRAIN_SECONDS:g} s of SIGKILL; {pids} did not")
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return killed

    def processes(self) -> list[int]:
        return [int(line) for line in Path(self.process_files[0]).read_text().split()]


class CgroupV1(Cgroup):
    """Directories of one name in the trees `memory`, `pids` and `cpuacct`."""

    def __init__(self, parents: dict[str, Path], name: str) -> None:
        self._dirs = {controller: parent / name for controller, parent in parents.items()}
        for directory in self._dirs.values():
            directory.mkdir(exist_ok=True)
        self._memory, self._pids = self._dirs["memory"], self._dirs["pids"]
        self._held_bytes = 0

    @property
    def process_files(self) -> list[str]:
        # A set, since controllers may share a tree.
        return sorted({str(directory / "cgroup.procs") for directory in self._dirs.values()})

    def begin(self, *, memory_bytes: int, max_tasks: int) -> None:
        write_file(self._pids / "pids.max", str(max_tasks))
        total = self._memory / "memory.memsw.limit_in_bytes"
        # Memory plus swap can never be less than memory: lift it first, then bring both down.
        if total.exists():
            write_file(total, "-1")
        write_file(self._memory / "memory.limit_in_bytes", str(memory_bytes))
        if total.exists():
            write_file(total, str(memory_bytes))
        write_file(self._memory / "memory.max_usage_in_bytes", "0")
        self._held_bytes = _number(self._memory / "memory.usage_in_bytes")

    def usage(self) -> Usage:
        kills = _field(self._memory / "memory.oom_control", "oom_kill")
        return Usage(cpu_seconds=self.cpu_seconds(), oom_kills=kills)

    def cpu_seconds(self) -> float:
        return _number(self._dirs["cpuacct"] / "cpuacct.usage") / 1e9

    def peak_memory_bytes(self) -> int:
        return max(0, _number(self._memory / "memory.max_usage_in_bytes") - self._held_bytes)

    def remove(self) -> None:
        for directory in self._dirs.values():
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir()

    def _forbid_new_processes(self) -> None:
        write_file(self._pids / "pids.max", "0")


class CgroupV2(Cgroup):
    """One directory. `memory.peak` can be reset since Linux 6.12; on older kernels each run gets a new directory."""

    def __init__(self, parent: Path, name: str) -> None:
        self._dir = parent / name
        self._dir.mkdir(exist_ok=True)
        self._held_bytes = 0
        self._peak_fd = -1

    @property
    def process_files(self) -> list[str]:
        return [str(self._dir / "cgroup.procs")]

    def begin(self, *, memory_bytes: int, max_tasks: int) -> None:
        if not self._reset_peak():
            self._dir.rmdir()
            self._dir.mkdir()
        write_file(self._dir / "pids.max", str(max_tasks))
        write_file(self._dir / "memory.max", str(memory_bytes))
        if (self._dir / "memory.swap.max").exists():
            write_file(self._dir / "memory.swap.max", "0")
        self._held_bytes = _number(self._dir / "memory.current")

    def _reset_peak(self) -> bool:
        """A written `memory.peak` starts anew, for reads through the same descriptor."""
        self._close_peak()
        try:
            self._peak_fd = os.open(self._dir / "memory.peak", os.O_RDWR | os.O_CLOEXEC)
            os.write(self._peak_fd, b"reset\n")
        except OSError:
            self._close_peak()
            return False
        return True

    def _close_peak(self) -> None:
        if self._peak_fd >= 0:
            os.close(self._peak_fd)
            self._peak_fd = -1

    def usage(self) -> Usage:
        kills = _field(self._dir / "memory.events", "oom_kill")
        return Usage(cpu_seconds=self.cpu_seconds(), oom_kills=kills)

    def cpu_seconds(self) -> float:
        return _field(self._dir / "cpu.stat", "usage_usec") / 1e6

    def peak_memory_bytes(self) -> int:
        peak = int(os.pread(self._peak_fd, 64, 0)) if self._peak_fd >= 0 else _number(self._dir / "memory.peak")
        return max(0, peak - self._held_bytes)

    def remove(self) -> None:
        self._close_peak()
        with contextlib.suppress(FileNotFoundError):
            self._dir.rmdir()

    def _forbid_new_processes(self) -> None:
        kill = self._dir / "cgroup.kill"
        if kill.exists():  # Linux 5.14: all at once
            write_file(kill, "1")
        else:
            write_file(self._dir / "pids.max", "0")


def write_file(path: Path, text: str) -> None:
    # One write call: the kernel takes each as a whole command.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)


def _number(path: Path) -> int:
    return int(_read(path))


def _field(path: Path, name: str) -> int:
    """The number after `name` in a file of `name number` lines."""
    for line in _read(path).decode().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    raise JailError(f"{path} must have a line {name!r}; this kernel does not give it")
