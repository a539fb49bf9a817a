"""One jail: what goes into it, and the face that both backends have."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megatron_k15.sandbox.values import Limits

INSIDE_UID = 1000
BASE_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "TMPDIR": "/tmp"}


@dataclass(frozen=True, kw_only=True)
class Bind:
    """A directory of the service's at a place in the jail."""

    source: Path
    place: str
    writable: bool = False


@dataclass(frozen=True, kw_only=True)
class Jail:
    """Everything a backend needs to know of one run."""

    directory: Path
    """The slot's, for the backend's own mounts and files."""
    uid: int
    """The slot's unprivileged user on the host."""
    command: tuple[str, ...]
    environment: Mapping[str, str]
    limits: Limits
    binds: tuple[Bind, ...]


class Backend(ABC):
    """Makes a jail of well-kept parts. Its cgroup, and its network, IPC and host name namespaces, are the slot's."""

    name: str
    enters_as_root: bool
    """Whether the command itself changes to the slot's user."""
    num_own_tasks = 2
    """Processes that count in the cgroup beside the program's: the jail's maker and its first process, `start`."""

    @abstractmethod
    def prepare(self, jail: Jail) -> None:
        """Mount what is the run's own: its scratch space."""

    @abstractmethod
    def command(self, jail: Jail, *, seccomp_fd: int, start_fd: int) -> list[str]:
        """What to start; it ends when the jail has, with the program's exit code (128 + N for signal N).

        Args:
            seccomp_fd: the BPF program, to be read from its start.
            start_fd: where `start` reports that the jail stands.
        """

    @abstractmethod
    def clear(self, jail: Jail) -> None:
        """Undo `prepare`, after a run of any end."""
