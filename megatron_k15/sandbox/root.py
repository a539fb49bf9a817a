"""What a program sees of the file system: built once by the service, shown read-only to every jail.

    /usr/{bin,lib,lib64,libexec,include}   the host's, as far as they exist
    /opt/python                            the Python that runs the service, its packages left out
    /etc                                   our own passwd, group and alternatives; nothing of the host's
    /dev                                   null zero full random urandom; shm is /tmp
    /box                                   the program (read-only in a run), /tmp its scratch space
    /start                                 start.cpp

All lies in a tmpfs in the service's private mount namespace: the host sees one empty directory.
"""

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from megatron_k15.sandbox import mounts
from megatron_k15.sandbox.errors import RequirementError

SHOWN = ("usr/bin", "usr/lib", "usr/lib32", "usr/lib64", "usr/libx32", "usr/libexec", "usr/include")
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}
STREAMS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
EMPTY = ("usr", "etc/alternatives", "dev", "proc", "box", "case", "tmp", "opt/python/bin", "opt/python/lib")
PASSWD = "root:x:0:0::/:/bin/false\nrunner:x:1000:1000::/tmp:/bin/bash\n"
GROUP = "root:x:0:\nrunner:x:1000:\n"
JAIL_PYTHON = "/opt/python"


class Root:
    """`path` is the read-only tree; `binds` are the directories in it that are mounts of their own.

    Args:
        directory: an empty directory; a tmpfs is mounted there.
        packages: names of installed distributions that the jail's Python can import.
    """

    def __init__(self, directory: Path, packages: Sequence[str] = ()) -> None:
        self.directory = directory
        self.skeleton = directory / "skeleton"
        self.path = directory / "root"
        self.binds: list[str] = []
        mounts.mount_plain_tmpfs(directory)
        self.enter = _compile("enter", directory)
        self._build_skeleton()
        self._mount_root(packages)

    def _build_skeleton(self) -> None:
        for name in EMPTY:
            (self.skeleton / name).mkdir(parents=True, exist_ok=True)
        for link, target in LINKS.items():
            (self.skeleton / link).symlink_to(target)
        (self.skeleton / "etc/passwd").write_text(PASSWD)
        (self.skeleton / "etc/group").write_text(GROUP)
        for choice in Path("/etc/alternatives").glob("*"):
            if choice.is_symlink():
                (self.skeleton / "etc/alternatives" / choice.name).symlink_to(choice.readlink())
        _compile("start", self.skeleton)
        self._python = _own_python()
        for name in self._shown():
            (self.skeleton / name).mkdir(parents=True, exist_ok=True)

    def _shown(self) -> dict[str, Path]:
        """Place in the root → directory of the host."""
        places = {name: Path("/", name) for name in SHOWN}
        shown = {name: place for name, place in places.items() if place.is_dir() and not place.is_symlink()}
        if self._python.prefix != Path("/usr"):
            shown["opt/python/lib"] = self._python.prefix / "lib"
            shown["opt/python/bin"] = self._python.prefix / "bin"
        return shown

    def _mount_root(self, packages: Sequence[str]) -> None:
        self.path.mkdir()
        mounts.bind_read_only(self.skeleton, self.path)
        for name, source in self._shown().items():
            self._bind(source, name)
        own_packages = self.directory / "packages"
        own_packages.mkdir()
        for package in packages:
            _copy_package(package, own_packages)
        if (self.path / self.packages_place).is_dir():
            self._bind(own_packages, self.packages_place)
        self._mount_devices()

    def _bind(self, source: Path, name: str) -> None:
        mounts.bind_read_only(source, self.path / name)
        self.binds.append(name)

    def _mount_devices(self) -> None:
        target = self.path / "dev"
        mounts.mount_plain_tmpfs(target)
        for name, (major, minor) in DEVICES.items():
            os.mknod(target / name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            (target / name).chmod(0o666)
        for name, place in (*STREAMS.items(), ("shm", "/tmp")):
            (target / name).symlink_to(place)
        mounts.remount_read_only(target, devices=True)

    def has(self, command: str) -> bool:
        """Whether the jail has the program at this absolute path, or will have it after compiling."""
        place = self.python if command == "{python}" else command
        # Links may be absolute, and then mean the host's root here: the link itself is enough.
        return place.startswith("/box/") or os.path.lexists(self.path / place.lstrip("/"))

    @property
    def python(self) -> str:
        """The interpreter's path inside the jail: no shim, no virtual environment."""
        if self._python.prefix == Path("/usr"):
            return str(self._python.executable)
        return f"{JAIL_PYTHON}/bin/{self._python.executable.name}"

    @property
    def environment(self) -> dict[str, str]:
        """What every jail needs to run `python`: its shared library, where it does not lie with the system's."""
        return {} if self._python.prefix == Path("/usr") else {"LD_LIBRARY_PATH": f"{JAIL_PYTHON}/lib"}

    @property
    def packages_place(self) -> str:
        if self._python.prefix == Path("/usr"):
            return "usr/lib/python3/dist-packages"
        return f"{JAIL_PYTHON.lstrip('/')}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


class _Python:
    def __init__(self, prefix: Path, executable: Path) -> None:
        self.prefix = prefix
        self.executable = executable


def _own_python() -> _Python:
    prefix = Path(sys.base_prefix).resolve()
    executable = prefix / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if not executable.exists():
        raise RequirementError(f"the sandbox shows its own Python to jails and needs {executable}; it does not exist")
    return _Python(prefix, executable)


def _copy_package(name: str, target: Path) -> None:
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError as error:
        raise RequirementError(f"--package {name} must name an installed package; it is not installed") from error
    site = Path(sysconfig.get_path("purelib"))
    for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
        source = site / top
        if source.is_dir():
            shutil.copytree(source, target / top, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy(source, target / top)


def _compile(name: str, target: Path) -> Path:
    """A static program, made anew at every start (0.3 s): never out of step with its source."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise RequirementError("the sandbox compiles its two small start programs and needs g++ (apt-get install g++)")
    source, program = Path(__file__).with_name(f"{name}.cpp"), target / name
    command = [compiler, "-O1", "-static", "-o", str(program), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RequirementError(f"{source} must compile with {compiler}; it said: {done.stderr[-2000:]}")
    return program
