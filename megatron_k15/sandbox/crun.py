"""The other backend: crun with an OCI bundle, its root an overlay whose upper layer is a small tmpfs (§2.6.4).

crun starts as root and changes to the slot's user itself. Cgroups are joined before it starts, so it manages none.
"""

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

from megatron_k15.sandbox import mounts
from megatron_k15.sandbox.errors import JailError, RequirementError
from megatron_k15.sandbox.jail import Backend, Jail
from megatron_k15.sandbox.root import Root
from megatron_k15.sandbox.seccomp import seccomp_program

HYBRID_TREE = Path("/sys/fs/cgroup/unified")
READ_ONLY = ["bind", "ro", "nosuid", "nodev"]
WRITABLE = ["bind", "rw", "nosuid", "nodev"]
MASKED = ["/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi"]
UNCHANGEABLE = ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


class Crun(Backend):
    name = "crun"
    enters_as_root = True

    def __init__(self, root: Root) -> None:
        program = shutil.which("crun")
        if program is None:
            raise RequirementError("backend crun needs crun (apt-get install crun)")
        self._program = program
        self._root = root
        self._seccomp = base64.b64encode(seccomp_program()).decode()
        # crun refuses a machine with both kinds of trees; in this mount namespace it sees one.
        if HYBRID_TREE.is_dir() and mounts.is_mounted(HYBRID_TREE):
            mounts.unmount(HYBRID_TREE)

    def prepare(self, jail: Jail) -> None:
        layer, root = jail.directory / "layer", jail.directory / "rootfs"
        for directory in (layer, root):
            directory.mkdir(exist_ok=True)
        limits = jail.limits
        # Five inodes of the limit's own: the layer's directories and the jail's /tmp.
        mounts.mount_tmpfs(layer, num_bytes=limits.disk_bytes, num_files=limits.disk_files + 5, uid=0)
        (layer / "work").mkdir()
        scratch = layer / "upper" / "tmp"
        scratch.mkdir(parents=True)
        os.chown(scratch, jail.uid, jail.uid)
        try:
            mounts.mount_overlay(root, lower=self._root.skeleton, upper=layer / "upper", work=layer / "work")
        except JailError:
            mounts.unmount(layer)
            raise

    def command(self, jail: Jail, *, seccomp_fd: int, start_fd: int) -> list[str]:
        # start_fd is inherited as descriptor 3 + n; crun passes the n + 1 descriptors from 3 on.
        config = self._config(jail, ["/start", str(start_fd), *jail.command])
        (jail.directory / "config.json").write_text(json.dumps(config))
        state = str(jail.directory / "state")
        return [
            self._program, "--root", state, "--cgroup-manager", "disabled", "run", "--bundle", str(jail.directory),
            "--preserve-fds", str(start_fd - 2), jail.directory.name,
        ]  # fmt: skip

    def clear(self, jail: Jail) -> None:
        mounts.unmount(jail.directory / "rootfs")
        mounts.unmount(jail.directory / "layer")
        shutil.rmtree(jail.directory / "state", ignore_errors=True)

    def _config(self, jail: Jail, command: list[str]) -> dict[str, Any]:
        nothing: dict[str, list[str]] = {
            kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
        }
        return {
            "ociVersion": "1.0.0",
            "annotations": {"run.oci.seccomp_bpf_data": self._seccomp},
            "process": {
                "user": {"uid": jail.uid, "gid": jail.uid, "umask": 0o022},
                "args": command,
                "env": [f"{name}={value}" for name, value in jail.environment.items()],
                "cwd": "/tmp",
                "capabilities": nothing,
                "noNewPrivileges": True,
            },
            "root": {"path": str(jail.directory / "rootfs"), "readonly": False},
            "mounts": self._mounts(jail),
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "mount"}],
                "maskedPaths": MASKED,
                "readonlyPaths": UNCHANGEABLE,
            },
        }

    def _mounts(self, jail: Jail) -> list[dict[str, Any]]:
        shown = [_bind(f"/{name}", self._root.path / name, READ_ONLY) for name in self._root.binds]
        devices = _bind("/dev", self._root.path / "dev", ["bind", "ro", "nosuid"])
        proc = {"destination": "/proc", "source": "proc", "type": "proc", "options": ["nosuid", "nodev", "noexec"]}
        own = [_bind(bind.place, bind.source, WRITABLE if bind.writable else READ_ONLY) for bind in jail.binds]
        return [*shown, devices, proc, *own]


def _bind(place: str, source: Path, options: list[str]) -> dict[str, Any]:
    return {"destination": place, "source": str(source), "type": "bind", "options": options}
