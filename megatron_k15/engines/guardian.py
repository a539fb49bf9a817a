"""The small process above one vLLM: it ends all of vLLM's processes when vLLM, or our own process, is gone.

Started by `sidecar.py` as `python -m megatron_k15.engines.guardian PARENT_PID SCRATCH_DIR COMMAND...`; ends with the
command's exit code. vLLM holds nothing worth saving, so its end is SIGKILL, always. The guardian lives in a session of
its own, so neither Ctrl-C nor a kill of the trainer's process group reaches it, and it needs no cooperation from a
parent that died by `kill -9`. vLLM starts an engine core and workers of its own; as their sub-reaper the guardian finds
them all, whoever started them.

What the guardian knows of is written down in the scratch directory: should it be killed together with everything else,
the next vLLM that is started on this machine clears what they left (`clear_leftovers`).

Standard library only: it is up in 0.1 s and holds 10 MB.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

POLL_SECONDS = 0.2
KILL_SECONDS = 10.0
SEGMENT_PREFIXES = ("vllm_dist_", "psm_", "sem.mp-")
"""Shared memory of vLLM's tensor-parallel workers and message queues, and Python's semaphores. A killed vLLM
leaves it behind."""

SCRATCH_PREFIX = "k15-vllm-"
LOCK_FILE = "guardian.lock"
"""In the scratch directory; locked as long as its guardian lives."""
SEGMENTS_FILE = "segments"
"""In the scratch directory: the shared memory below the guardian, a path per line."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Guardian:
    """WATCHING → (child gone, parent gone, or SIGTERM) → ENDING → all descendants dead, leftovers removed."""

    def __init__(self, parent_pid: int, scratch_dir: Path) -> None:
        self._parent_pid = parent_pid
        self._scratch_dir = scratch_dir
        self._told_to_stop = False
        self._segments: set[Path] = set()
        self._unrelated: set[Path] = set()

    def run(self, command: list[str]) -> int:
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        lock = os.open(self._scratch_dir / LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Safe: this process has one thread. The signal covers a guardian that is itself killed.
        child = subprocess.Popen(command, preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        while child.poll() is None and not self._told_to_stop and os.getppid() == self._parent_pid:
            self._note_segments()
            time.sleep(POLL_SECONDS)
        self._end(child)
        return child.returncode if child.returncode is not None else 1

    def _on_sigterm(self, _signal: int, _frame: FrameType | None) -> None:
        self._told_to_stop = True

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        self._note_segments()
        deadline = time.monotonic() + KILL_SECONDS
        while time.monotonic() < deadline:
            for pid in _living_descendants():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if child.poll() is not None and not _children_left():
                break
            time.sleep(0.02)
        for segment in self._segments:
            segment.unlink(missing_ok=True)
        shutil.rmtree(self._scratch_dir, ignore_errors=True)

    def _note_segments(self) -> None:
        """Remember the shared memory that our descendants map, while they are there to be asked."""
        present = {path for path in Path("/dev/shm").iterdir() if path.name.startswith(SEGMENT_PREFIXES)}
        self._unrelated &= present
        if new := present - self._segments - self._unrelated:
            mapped = set().union(*(_mapped_inodes(pid) for pid in _living_descendants()))
            ours = {path for path in new if _inode(path) in mapped}
            if ours:
                self._segments |= ours
                (self._scratch_dir / SEGMENTS_FILE).write_text("".join(f"{path}\n" for path in sorted(self._segments)))
            # Seen by nobody of ours yet: may still be between creation and mapping, so look again next time.
            self._unrelated |= {path for path in new - ours if _age_seconds(path) > 2.0}


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _living_descendants() -> list[int]:
    """Process ids below this one, without zombies."""
    children: dict[int, list[tuple[int, str]]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The command name, in parentheses, may hold spaces: fields count from the last parenthesis.
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                children.setdefault(int(parent), []).append((int(entry.name), state))
    found, queue = [], [os.getpid()]
    while queue:
        below = children.get(queue.pop(), [])
        queue += [pid for pid, _ in below]
        found += [pid for pid, state in below if state not in "ZX"]
    return found


def _children_left() -> bool:
    """Reap what has died; True while some child has not, its last threads included.

    Processes below vLLM's first one become our children when their parents die: none of them is to stay a zombie.
    """
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return False
    return True


def _mapped_inodes(pid: int) -> set[int]:
    """Of the files in /dev/shm that a process maps. By inode: a semaphore is mapped under another name than it gets."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        return {int(line.split()[4]) for line in lines if "/dev/shm/" in line}
    return set()


def _inode(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_ino
    return -1


def _age_seconds(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime
    return 0.0


def clear_leftovers(temporary: Path | None = None) -> None:
    """Remove shared memory and scratch directories of guardians that were killed before they could.

    Args:
        temporary: where scratch directories are made; None: Python's own choice.
    """
    for scratch_dir in Path(temporary or tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
        with contextlib.suppress(OSError):
            # Without the file its guardian is only about to start; locked, it lives (BlockingIOError).
            lock = os.open(scratch_dir / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _clear(scratch_dir)
            finally:
                os.close(lock)


def _clear(scratch_dir: Path) -> None:
    if scratch_dir.stat().st_uid != os.geteuid():
        return
    listed = scratch_dir / SEGMENTS_FILE
    paths = [Path(line) for line in listed.read_text().splitlines()] if listed.exists() else []
    # A process that outlived its guardian may still use them.
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    mapped = set().union(*(_mapped_inodes(pid) for pid in pids))
    in_use = [path for path in paths if _inode(path) in mapped]
    for path in paths:
        if path.parent == Path("/dev/shm") and path.name.startswith(SEGMENT_PREFIXES) and path not in in_use:
            path.unlink(missing_ok=True)
    if not in_use:
        shutil.rmtree(scratch_dir, ignore_errors=True)


def main() -> int:
    parent_pid, scratch_dir, *command = sys.argv[1:]
    return Guardian(int(parent_pid), Path(scratch_dir)).run(command)


if __name__ == "__main__":
    sys.exit(main())
