"""The service's part of the machine: private mounts, the root, cgroups, slots. Opened and closed as a whole."""

import contextlib
import ctypes
import errno
import itertools
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from megatron_k15.sandbox import mounts
from megatron_k15.sandbox.bubblewrap import Bubblewrap
from megatron_k15.sandbox.cgroup_trees import Hierarchy, open_hierarchy
from megatron_k15.sandbox.crun import Crun
from megatron_k15.sandbox.errors import JailError, RequirementError
from megatron_k15.sandbox.guardian import service_name
from megatron_k15.sandbox.jail import Backend
from megatron_k15.sandbox.languages import Language
from megatron_k15.sandbox.root import Root
from megatron_k15.sandbox.seccomp import seccomp_program
from megatron_k15.sandbox.slot import Slot
from megatron_k15.sandbox.values import Limits

BACKENDS = ("bubblewrap", "crun")

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    backend: str = "bubblewrap"
    num_slots: int = 0
    """Programs at one time; 0: one per core."""
    first_uid: int = 64000
    """Slots run as users from here on that no other sandbox of this host has taken. They must be nobody's."""
    packages: tuple[str, ...] = ()
    """Installed Python distributions that jailed Python programs may import."""


class Machine:
    """A context manager. Enter it while the process has one thread: mount namespaces belong to processes of one."""

    def __init__(self, config: MachineConfig) -> None:
        self._config = config
        self.slots: list[Slot] = []

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise RequirementError(f"the sandbox must be started as root; this is user {os.geteuid()}")
        with contextlib.ExitStack() as stack:
            name = service_name(os.getpid())
            # A killed jail's first process comes to us instead of the host's init.
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            directory = Path(tempfile.mkdtemp(prefix=f"{name}-"))
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            directory.chmod(0o755)
            mounts.enter_private_mounts()
            hierarchy = open_hierarchy(name)
            stack.callback(hierarchy.remove)
            self.root = Root(directory, self._config.packages)
            stack.callback(mounts.unmount, directory)
            self._make_slots(directory, hierarchy, stack)
            self._try_a_jail()
            self._stack = stack.pop_all()
        return self

    def _make_slots(self, directory: Path, hierarchy: Hierarchy, stack: contextlib.ExitStack) -> None:
        seccomp = directory / "seccomp"
        seccomp.write_bytes(seccomp_program())
        backend = self._backend()
        uids = itertools.count(self._config.first_uid)
        for index in range(self._config.num_slots or os.cpu_count() or 1):
            slot = Slot(
                index,
                directory=directory / f"slot-{index}",
                uid=_take_user(uids, stack),
                cgroup=hierarchy.create(f"slot-{index}"),
                backend=backend,
                root=self.root,
                seccomp=str(seccomp),
            )
            self.slots.append(slot)
            stack.callback(slot.close)

    def _try_a_jail(self) -> None:
        """What a kernel or a container forbids shows here, not with the first submission."""
        nothing = Language(source_name="", run=("/bin/true",))
        try:
            slot = self.slots[0]
            trial = slot.submit(
                lambda slot: slot.run(nothing.run, language=nothing, limits=Limits(), binds=())
            ).result()
        except JailError as error:
            raise RequirementError(f"this machine must allow {self._config.backend} its jails; {error}") from error
        if trial.exit_code != 0:
            raise RequirementError(f"/bin/true must run in a jail of {self._config.backend}; it ended with {trial}")

    def _backend(self) -> Backend:
        match self._config.backend:
            case "bubblewrap":
                return Bubblewrap(self.root)
            case "crun":
                return Crun(self.root)
        raise RequirementError(f"backend must be one of {', '.join(BACKENDS)}; got {self._config.backend!r}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()


def _take_user(uids: Iterator[int], stack: contextlib.ExitStack) -> int:
    """The first that is free. An abstract socket's name marks it as taken, which the kernel drops with this process."""
    mark = stack.enter_context(socket.socket(socket.AF_UNIX))
    while True:
        uid = next(uids)
        try:
            mark.bind(f"\0k15-sandbox-user-{uid}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return uid
