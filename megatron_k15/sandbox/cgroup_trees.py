"""Where on this machine cgroups can be made: v1 trees, a v2 tree, or both at once.

Where `memory`, `pids` and `cpuacct` hang in v1 trees, v1 is used: a v2 tree beside them has no controllers then.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from megatron_k15.sandbox.cgroups import DRAIN_SECONDS, Cgroup, CgroupV1, CgroupV2, write_file
from megatron_k15.sandbox.errors import RequirementError

MOUNTS = Path("/proc/self/mounts")
OWN_CGROUPS = Path("/proc/self/cgroup")


class Hierarchy:
    """Where slots' cgroups are made: a directory of the service's own in each tree that is needed.

    Args:
        parents: v1: controller → directory. v2: the one directory under the key "".
    """

    def __init__(self, parents: dict[str, Path]) -> None:
        self._parents = parents
        self.version = 2 if "" in parents else 1

    def create(self, name: str) -> Cgroup:
        if self.version == 2:
            return CgroupV2(self._parents[""], name)
        return CgroupV1(self._parents, name)

    def remove(self) -> None:
        """Kill and remove all that is below, then the directories themselves."""
        for parent in set(self._parents.values()):
            remove_tree(parent)


CONTROLLERS = ("memory", "pids", "cpuacct")


def open_hierarchy(name: str) -> Hierarchy:
    """Make the service's directories, called `name`, in the trees of this machine.

    Raises:
        RequirementError: no usable tree, or no right to write there.
    """
    trees = _mounted_trees()
    try:
        if all(controller in trees for controller in CONTROLLERS):
            own = _own_paths()
            parents = {name_: _own_directory(trees[name_], own.get(name_, "/")) for name_ in CONTROLLERS}
            directories = {controller: parent / name for controller, parent in parents.items()}
        elif "" in trees:
            parent = _own_directory(trees[""], _own_paths().get("", "/"))
            _enable(parent)
            directories = {"": parent / name}
        else:
            raise RequirementError(
                f"cgroups need mounted v1 trees for {', '.join(CONTROLLERS)}, or a v2 tree; found {sorted(trees)}"
            )
        for directory in directories.values():
            directory.mkdir(exist_ok=True)
            if "" in directories:
                _enable(directory)
    except OSError as error:
        raise RequirementError(
            f"the sandbox must be able to make cgroups, as root outside of a container or in one started with "
            f"--privileged; {error}"
        ) from error
    return Hierarchy(directories)


def remove_tree(directory: Path) -> None:
    """Kill all processes of a cgroup and those below it, and remove them. What is already gone is no error."""
    if not directory.is_dir():
        return
    for child in [path for path in directory.iterdir() if path.is_dir()]:
        remove_tree(child)
    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline:
        try:
            for pid in (directory / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)
        else:
            return


def _mounted_trees() -> dict[str, Path]:
    """Controller → mount point of its v1 tree, and "" → that of the v2 tree."""
    trees = {}
    for line in MOUNTS.read_text().splitlines():
        _, point, kind, options = line.split()[:4]
        if kind == "cgroup2":
            trees[""] = Path(point)
        elif kind == "cgroup":
            trees |= {option: Path(point) for option in options.split(",") if option in CONTROLLERS}
    return trees


def _own_paths() -> dict[str, str]:
    """Controller ("" for v2) → path of this process's cgroup in its tree."""
    paths: dict[str, str] = {}
    for line in OWN_CGROUPS.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    return paths


def _own_directory(mount_point: Path, path: str) -> Path:
    """Below our own cgroup, whose limits hold for the jails too. In a container the path may be the host's."""
    directory = mount_point / path.lstrip("/")
    return directory if directory.is_dir() else mount_point


def _enable(directory: Path) -> None:
    """Let the children of a v2 cgroup have the controllers.

    A v2 cgroup with controllers for its children must hold no process itself: those of ours move into a child.
    """
    control = directory / "cgroup.subtree_control"
    try:
        write_file(control, "+memory +pids +cpu")
    except OSError:
        leaf = directory / "k15-others"
        leaf.mkdir(exist_ok=True)
        for pid in (directory / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                write_file(leaf / "cgroup.procs", pid)
        write_file(control, "+memory +pids +cpu")
