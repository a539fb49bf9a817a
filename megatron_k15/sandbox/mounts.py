"""mount(2), umount2(2) and unshare(2), which Python 3.11 does not have. Everything here happens in a mount namespace of
the service's own: the host's table of mounts never changes, and all of it is gone with the service."""

import ctypes
import os
from pathlib import Path

from megatron_k15.sandbox.errors import JailError, RequirementError

RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
REMOUNT, BIND, RECURSIVE, PRIVATE = 32, 4096, 16384, 1 << 18
DETACH = 2
NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_NET = 0x00020000, 0x04000000, 0x08000000, 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def enter_private_mounts() -> None:
    """Give this process (still of one thread) a mount namespace of its own, from which nothing reaches the host's.

    Raises:
        RequirementError: not root, or a container without the right.
    """
    try:
        unshare(NEW_MOUNTS)
        _mount(None, "/", None, RECURSIVE | PRIVATE, None)
    except JailError as error:
        raise RequirementError(
            f"the sandbox must be able to make mounts: run it as root, and a container with --privileged; {error}"
        ) from error


def unshare(namespaces: int) -> None:
    """Give the calling thread new namespaces; what it starts is born into them."""
    if _libc.unshare(ctypes.c_int(namespaces)) != 0:
        _raise("unshare", hex(namespaces))


def mount_tmpfs(target: Path, *, num_bytes: int, num_files: int, uid: int, mode: int = 0o755) -> None:
    """A fresh, empty tmpfs of limited size that belongs to `uid`."""
    # One inode is the root directory itself.
    options = f"size={num_bytes},nr_inodes={num_files + 1},mode={mode:o},uid={uid},gid={uid}"
    _mount("tmpfs", str(target), "tmpfs", NOSUID | NODEV, options)


def bind_read_only(source: Path, target: Path) -> None:
    """Show `source` (one file system, nothing mounted below it) at `target`, unchangeable."""
    _mount(str(source), str(target), None, BIND, None)
    remount_read_only(target)


def remount_read_only(target: Path, *, devices: bool = False) -> None:
    _mount(None, str(target), None, BIND | REMOUNT | RDONLY | NOSUID | (0 if devices else NODEV), None)


def mount_overlay(target: Path, *, lower: Path, upper: Path, work: Path) -> None:
    _mount("overlay", str(target), "overlay", NOSUID | NODEV, f"lowerdir={lower},upperdir={upper},workdir={work}")


def mount_plain_tmpfs(target: Path) -> None:
    """For the service's own files: no limit but the kernel's (half of the memory)."""
    _mount("tmpfs", str(target), "tmpfs", NOSUID, "mode=755")


def unmount(target: Path) -> None:
    """Take it away now; its content goes when the last process that uses it has."""
    if _libc.umount2(os.fsencode(target), DETACH) != 0:
        _raise("umount", str(target))


def is_mounted(target: Path) -> bool:
    return target.stat().st_dev != target.parent.stat().st_dev


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None) -> None:
    arguments = [None if value is None else os.fsencode(value) for value in (source, target, kind, options)]
    if _libc.mount(arguments[0], arguments[1], arguments[2], ctypes.c_ulong(flags), arguments[3]) != 0:
        _raise("mount", target)


def _raise(call: str, what: str) -> None:
    number = ctypes.get_errno()
    raise JailError(f"{call} of {what} must succeed; {os.strerror(number)}") from OSError(number, os.strerror(number))
