"""The default backend: bubblewrap, entered as the slot's unprivileged user.

As root it would have to keep root's user id inside, to which every bound file belongs. From an unprivileged user it
makes a user namespace in which nobody is root.
"""

import shutil

from megatron_k15.sandbox import mounts
from megatron_k15.sandbox.errors import RequirementError
from megatron_k15.sandbox.jail import INSIDE_UID, Backend, Jail
from megatron_k15.sandbox.root import Root


class Bubblewrap(Backend):
    name = "bubblewrap"
    enters_as_root = False

    def __init__(self, root: Root) -> None:
        program = shutil.which("bwrap")
        if program is None:
            raise RequirementError(
                "the sandbox needs bubblewrap (apt-get install bubblewrap), or --backend crun with crun installed"
            )
        self._program = program
        self._root = root

    def prepare(self, jail: Jail) -> None:
        scratch = jail.directory / "scratch"
        scratch.mkdir(exist_ok=True)
        limits = jail.limits
        mounts.mount_tmpfs(scratch, num_bytes=limits.disk_bytes, num_files=limits.disk_files, uid=jail.uid)

    def command(self, jail: Jail, *, seccomp_fd: int, start_fd: int) -> list[str]:
        root = str(self._root.path)
        words = [self._program, "--unshare-user", "--unshare-pid", "--as-pid-1", "--die-with-parent", "--clearenv"]
        words += ["--uid", str(INSIDE_UID), "--gid", str(INSIDE_UID)]
        words += ["--ro-bind", root, "/", "--dev-bind", f"{root}/dev", "/dev", "--proc", "/proc"]
        words += ["--bind", str(jail.directory / "scratch"), "/tmp"]
        for bind in jail.binds:
            words += ["--bind" if bind.writable else "--ro-bind", str(bind.source), bind.place]
        for name, value in jail.environment.items():
            words += ["--setenv", name, value]
        words += ["--chdir", "/tmp", "--seccomp", str(seccomp_fd), "--", "/start", str(start_fd)]
        return [*words, *jail.command]

    def clear(self, jail: Jail) -> None:
        mounts.unmount(jail.directory / "scratch")
