"""The process above the server: it clears up when the server, or the process that wanted it, is gone.

The server may be killed at any moment. Its mounts go by themselves, being in a namespace of its own; its jails'
processes, its cgroups and its directory go here. Should the guardian be killed as well, the server dies with it, and
the next guardian on this machine clears what both left.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from megatron_k15.sandbox.cgroup_trees import remove_tree

CGROUPS = Path("/sys/fs/cgroup")
POLL_SECONDS = 0.2
STOP_SECONDS = 3.0
PR_SET_PDEATHSIG = 1


def service_name(server_pid: int | str) -> str:
    """What the server's cgroups are called, and its directory begins with. Process ids mean something in one pid
    namespace only, while containers may share cgroup trees."""
    return f"k15-sandbox-{Path('/proc/self/ns/pid').stat().st_ino}-{server_pid}"


class Guardian:
    """`fork()`, then `watch()` in the parent.

    Args:
        parent_pid: ends when that process is no longer our parent; 0 does not look.
    """

    def __init__(self, *, parent_pid: int) -> None:
        self._parent_pid = parent_pid
        self._server_pid = 0
        self._told_to_stop = False

    def fork(self) -> int:
        """The server's process id in the guardian, 0 in the server."""
        remove_stale()
        own_pid = os.getpid()
        self._server_pid = os.fork()
        if self._server_pid == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != own_pid:
                os._exit(1)
            return 0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        return self._server_pid

    def watch(self) -> int:
        """Wait for the server's end, and clear up; its exit code (128 + N for signal N), 0 if it was told to stop."""
        while (code := self._exit_code()) is None and not self._told_to_stop and not self._is_orphan():
            time.sleep(POLL_SECONDS)
        if code is None:
            self._stop_server()
            code = 0
        remove_leftovers(self._server_pid)
        return code

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self._told_to_stop = True

    def _is_orphan(self) -> bool:
        return self._parent_pid != 0 and os.getppid() != self._parent_pid

    def _exit_code(self) -> int | None:
        pid, status = os.waitpid(self._server_pid, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if pid else None
        return code if code is None or code >= 0 else 128 - code

    def _stop_server(self) -> None:
        """Politely, so that answers under way get out; then not."""
        if self._is_orphan():
            os.kill(self._server_pid, signal.SIGKILL)
        else:
            os.kill(self._server_pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self._exit_code() is None:
            if time.monotonic() > deadline:
                os.kill(self._server_pid, signal.SIGKILL)
            time.sleep(0.02)


def remove_stale() -> None:
    """Clear up after servers on this machine that are gone without their guardians."""
    names = {path.name for path in _leftovers("*")}
    for pid in {name.removeprefix(service_name("")).split("-")[0] for name in names}:
        if pid.isdigit() and not _is_running(int(pid)):
            remove_leftovers(int(pid))


def _is_running(pid: int) -> bool:
    """Zombies are not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def remove_leftovers(server_pid: int) -> None:
    for path in _leftovers(str(server_pid)):
        if path.is_relative_to(CGROUPS):
            remove_tree(path)
        else:
            with contextlib.suppress(OSError):
                shutil.rmtree(path)


def _leftovers(pid: str) -> list[Path]:
    trees = [root for root in (CGROUPS, *CGROUPS.glob("*")) if root.is_dir()]
    own = {line.split(":", 2)[2].strip().lstrip("/") for line in Path("/proc/self/cgroup").read_text().splitlines()}
    parents = {tree / path for tree in trees for path in {"", *own}}
    found = [path for parent in parents if parent.is_dir() for path in parent.glob(service_name(pid))]
    return found + list(Path(tempfile.gettempdir()).glob(f"{service_name(pid)}-*"))


if __name__ == "__main__":
    sys.exit("start the sandbox with `python -m megatron_k15.sandbox`")
