"""A slot: one thread, one unprivileged user, one cgroup, one directory, one set of namespaces. One program at a time.

The thread itself lives in network, IPC and host-name namespaces that hold nothing, and what it starts is born there:
making a network namespace anew for each run would cost several times the run.
"""

import fcntl
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from megatron_k15.sandbox import mounts
from megatron_k15.sandbox.cgroups import Cgroup
from megatron_k15.sandbox.jail import BASE_ENVIRONMENT, Backend, Bind, Jail
from megatron_k15.sandbox.languages import Language
from megatron_k15.sandbox.root import Root
from megatron_k15.sandbox.running import Measured, Runner
from megatron_k15.sandbox.values import Limits

Result = TypeVar("Result")
SEALS = 0x0001 | 0x0002 | 0x0004 | 0x0008
"""F_SEAL_SEAL, SHRINK, GROW and WRITE: the program cannot change what it reads."""
F_ADD_SEALS = 1033


class Slot:
    """`submit(function)` calls `function(slot)` on the slot's thread."""

    def __init__(
        self, index: int, *, directory: Path, uid: int, cgroup: Cgroup, backend: Backend, root: Root, seccomp: str
    ) -> None:
        self.index = index
        self._directory = directory
        self._uid = uid
        self._cgroup = cgroup
        self._root = root
        self._runner = Runner(backend, cgroup, enter=str(root.enter), seccomp_path=seccomp)
        directory.mkdir()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"slot-{index}", initializer=_leave_namespaces)
        self._thread.submit(lambda: None).result()

    def submit(self, function: Callable[["Slot"], Result]) -> "Future[Result]":
        return self._thread.submit(function, self)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._cgroup.drain()
        self._cgroup.remove()

    def program_directory(self, name: str, limits: Limits) -> "ProgramDirectory":
        return ProgramDirectory(self._directory / name, limits, self._uid)

    def run(
        self,
        words: Sequence[str],
        *,
        language: Language,
        limits: Limits,
        binds: tuple[Bind, ...],
        stdin: bytes = b"",
    ) -> Measured:
        """Run `words` ({python} filled in) in a fresh jail.

        Raises:
            JailError: no jail could be made, three times in a row.
        """
        jail = Jail(
            directory=self._directory,
            uid=self._uid,
            command=tuple(self._root.python if word == "{python}" else word for word in words),
            environment={**BASE_ENVIRONMENT, **self._root.environment, **language.environment},
            limits=limits,
            binds=binds,
        )
        with SealedFile(stdin) as fd:
            return self._runner.run(jail, fd)


class ProgramDirectory:
    """A tmpfs for one program: source, and what the compiler makes of it. A context manager; all is gone at its end."""

    def __init__(self, path: Path, limits: Limits, uid: int) -> None:
        self.path = path
        self._limits = limits
        self._uid = uid

    def __enter__(self) -> "ProgramDirectory":
        self.path.mkdir(exist_ok=True)
        limits = self._limits
        mounts.mount_tmpfs(self.path, num_bytes=limits.disk_bytes, num_files=limits.disk_files, uid=self._uid)
        return self

    def __exit__(self, *error: object) -> None:
        mounts.unmount(self.path)

    def write(self, name: str, content: bytes) -> None:
        (self.path / name).write_bytes(content)

    def bind(self, place: str, *, writable: bool = False) -> Bind:
        return Bind(source=self.path, place=place, writable=writable)


class SealedFile:
    """Bytes as a descriptor that reads from the start and cannot be written, through whatever door."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __enter__(self) -> int:
        self._fd = os.memfd_create("input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        view = memoryview(self._content)
        while view:
            view = view[os.write(self._fd, view) :]
        os.lseek(self._fd, 0, os.SEEK_SET)
        fcntl.fcntl(self._fd, F_ADD_SEALS, SEALS)
        return self._fd

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)


def _leave_namespaces() -> None:
    mounts.unshare(mounts.NEW_NET | mounts.NEW_IPC | mounts.NEW_UTS)
    socket.sethostname("sandbox")
