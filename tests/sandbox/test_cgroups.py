"""The cgroup driver: both versions, and which one a machine has. v2's files are plain files here where this machine's
kernel keeps its controllers in v1 trees; killing is tested on real trees of either version."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from megatron_k15.sandbox import cgroup_trees
from megatron_k15.sandbox.cgroup_trees import open_hierarchy, remove_tree
from megatron_k15.sandbox.cgroups import CgroupV2, Usage
from megatron_k15.sandbox.errors import RequirementError

V2_TREES = [
    path for path in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")) if (path / "cgroup.stat").exists()
]
FORKING = "while true; do sleep 100 & sleep 0.01; done"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which a test lays out trees; `mounts` and `cgroup` stand for the files of /proc."""
    monkeypatch.setattr(cgroup_trees, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(cgroup_trees, "OWN_CGROUPS", tmp_path / "cgroup")
    return tmp_path


def lay_out(machine: Path, mounts: dict[str, str], own: str) -> None:
    """`mounts`: directory → `cgroup2`, or the controllers of a v1 tree."""
    lines = []
    for name, kind in mounts.items():
        (machine / name).mkdir(parents=True)
        (machine / name / "cgroup.subtree_control").touch()
        version = kind if kind == "cgroup2" else "cgroup"
        lines.append(f"x {machine / name} {version} rw,relatime,{kind} 0 0\n")
    (machine / "mounts").write_text("proc /proc proc rw 0 0\n" + "".join(lines))
    (machine / "cgroup").write_text(own)


def test_v1_trees_go_before_an_idle_v2_tree(machine: Path) -> None:
    lay_out(
        machine,
        {"unified": "cgroup2", "memory": "memory", "pids": "pids", "cpu": "cpu,cpuacct"},
        "4:memory:/jobs/7\n3:pids:/\n2:cpu,cpuacct:/\n0::/\n",
    )
    (machine / "memory/jobs/7").mkdir(parents=True)
    assert open_hierarchy("mine").version == 1
    # Below our own cgroup, so that its limits hold for the jails.
    assert (machine / "memory/jobs/7/mine").is_dir()
    assert (machine / "cpu/mine").is_dir()
    assert not (machine / "unified/mine").exists()


def test_a_v2_tree_alone_is_used_with_its_controllers_enabled(machine: Path) -> None:
    lay_out(machine, {"tree": "cgroup2"}, "0::/a/b\n")
    for name in ("tree/a/b", "tree/a/b/mine"):
        (machine / name).mkdir(parents=True)
        (machine / name / "cgroup.subtree_control").touch()
    assert open_hierarchy("mine").version == 2
    for name in ("tree/a/b", "tree/a/b/mine"):
        assert (machine / name / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"


def test_a_path_of_the_hosts_is_not_looked_for_in_a_container(machine: Path) -> None:
    lay_out(machine, {"memory": "memory", "pids": "pids", "cpuacct": "cpuacct"}, "4:memory:/docker/abc\n3:pids:/x\n")
    open_hierarchy("mine")
    assert (machine / "memory/mine").is_dir()


def test_a_machine_without_usable_trees_is_refused(machine: Path) -> None:
    lay_out(machine, {"memory": "memory"}, "0::/\n")
    with pytest.raises(RequirementError, match=r"v1 trees for memory, pids, cpuacct, or a v2 tree; found \['memory'\]"):
        open_hierarchy("mine")


def test_v2_limits_and_counters(tmp_path: Path) -> None:
    parent = tmp_path / "slot"
    parent.mkdir()
    for name, text in (
        ("memory.peak", "0\n"), ("memory.current", "1000\n"), ("memory.max", ""), ("memory.swap.max", ""),
        ("pids.max", ""),
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("cpu.stat", "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n"), ("cgroup.procs", ""),
    ):  # fmt: skip
        (parent / name).write_text(text)
    cgroup = CgroupV2(tmp_path, "slot")
    cgroup.begin(memory_bytes=5000, max_tasks=7)
    assert [(parent / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max")] == ["5000", "0", "7"]
    assert cgroup.usage() == Usage(cpu_seconds=2.5, oom_kills=2)
    (parent / "memory.peak").write_text("4000\n")
    assert cgroup.peak_memory_bytes() == 3000


@pytest.mark.skipif(os.geteuid() != 0 or not V2_TREES, reason="needs root and a v2 tree")
def test_a_v2_cgroup_is_drained_though_its_processes_fork() -> None:
    name = f"k15-test-{os.getpid()}"
    cgroup = CgroupV2(V2_TREES[-1], name)
    process = subprocess.Popen(["bash", "-c", f"echo $$ > {cgroup.process_files[0]}; {FORKING}"])
    try:
        deadline = time.monotonic() + 10
        while len(cgroup.processes()) < 10:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert cgroup.cpu_seconds() > 0
        assert process.pid in cgroup.drain()
        assert cgroup.processes() == []
        assert process.wait(5) == -9
    finally:
        cgroup.remove()
    assert not (V2_TREES[-1] / name).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_whole_tree_is_removed_with_its_processes() -> None:
    name = f"k15-test-{os.getpid()}"
    hierarchy = open_hierarchy(name)
    cgroup = hierarchy.create("slot")
    join = "; ".join(f"echo $$ > {path}" for path in cgroup.process_files)
    process = subprocess.Popen(["bash", "-c", f"{join}; {FORKING}"])
    deadline = time.monotonic() + 10
    while len(cgroup.processes()) < 10:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    parents = [Path(path).parent.parent for path in cgroup.process_files]
    hierarchy.remove()
    assert process.wait(5) == -9
    assert not any(parent.exists() for parent in parents)
    remove_tree(parents[0])  # what is gone is no error
