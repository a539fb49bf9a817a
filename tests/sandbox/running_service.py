"""A running sandbox, and what of it the host can see: for tests that look for what a run leaves behind."""

import contextlib
import itertools
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from megatron_k15.sandbox.client import SandboxClient
from megatron_k15.sandbox.local_service import LocalService
from megatron_k15.sandbox.values import Case, Limits, Report, Submission

CAP_SYS_ADMIN = 21
_uids = itertools.count(1_000_000 + 64 * os.getpid(), 4)


def fresh_uid() -> int:
    """A first user id of a test's own, with room for four slots: other tests may run on this machine at the same time,
    and what their users do is none of ours."""
    return next(_uids)


def _lacks() -> str:
    """What this machine lacks to start a sandbox; empty where nothing."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:")]
    if os.geteuid() != 0 or not int(line.split()[1], 16) >> CAP_SYS_ADMIN & 1:
        return "the sandbox must be started as root, and in a container with --privileged"
    return ""


LACKS = _lacks()
SHORT = Limits(cpu_seconds=1.0, wall_seconds=6.0, memory_bytes=128 << 20)
CGROUPS = Path("/sys/fs/cgroup")


class RunningService:
    """One service with one slot, whose user is `uid` on the host."""

    def __init__(self, local: LocalService, uid: int) -> None:
        self.local = local
        self.client: SandboxClient = local.ready()
        self.uid = uid
        assert local.pid
        (self.server,) = psutil.Process(local.pid).children()
        self.run("true", "")  # what the server imports with its first request

    def run(self, language: str, source: str, *cases: Case, limits: Limits = SHORT, **rest: Any) -> Report:
        return self.client.run(
            Submission(language=language, source=source, cases=cases or (Case(),), limits=limits, **rest)
        )

    def output(self, language: str, source: str, **limits: Any) -> str:
        """What a program prints that must end well."""
        report = self.run(language, source, limits=replace(SHORT, **limits), returned_output_bytes=1 << 20)
        assert report.verdict == "accepted", report
        return report.cases[0].output

    def host_state(self) -> Mapping[str, Any]:
        """Everything a run could leave behind: equal before and after it."""
        server = Path("/proc", str(self.server.pid))
        groups = sorted(path for path in CGROUPS.rglob(f"k15-sandbox-*-{self.server.pid}/*") if path.is_dir())
        return {
            "processes of the slot's user": processes_of(self.uid),
            "children of the server": [child.pid for child in self.server.children(recursive=True)],
            "processes in its cgroups": [(path / "cgroup.procs").read_text() for path in groups],
            "cgroups": groups,
            "mounts of the host": _mounts(Path("/proc/self")),
            "mounts of the server": _mounts(server),
            "descriptors of the server": _descriptors(server),
            "files of the slot's user": [path for path in _shared_places() if _owner(path) == self.uid],
            "System V objects": [Path("/proc/sysvipc", kind).read_text() for kind in ("shm", "sem", "msg")],
        }


def _mounts(process: Path) -> list[str]:
    """Without named network namespaces: other tests make hosts of them."""
    return [line for line in (process / "mountinfo").read_text().splitlines() if "/run/netns" not in line]


def _descriptors(process: Path) -> list[str]:
    """Without sockets: a connection that was answered is closed a moment later."""
    kinds = []
    for fd in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            kinds.append(str(fd.readlink()).partition(":")[0])
    return sorted(kind for kind in kinds if kind != "socket")


def processes_of(uid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found += [int(entry.name)] if entry.stat().st_uid == uid else []
            except OSError:
                continue
    return found


def _shared_places() -> list[Path]:
    return [*Path("/tmp").iterdir(), *Path("/dev/shm").iterdir(), *Path("/var/tmp").iterdir()]


def _owner(path: Path) -> int:
    try:
        return path.lstat().st_uid
    except OSError:
        return -1
