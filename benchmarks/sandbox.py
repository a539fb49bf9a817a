"""The sandbox through HTTP: start-up, throughput and CPU time per run, for both backends; and whether it leaks.

Every round runs, one after another: `/bin/true` and an empty Python program in the sandbox, and `/bin/true` bare, as a
child process with no isolation at all: the baseline. `ratio` is `/bin/true` in bubblewrap, through HTTP, over bare.
`cpu_seconds_per_run` counts the service and all it starts. `runs_per_second` has as many requests under way as the
service has slots, times two.

`--leak-runs N` runs N more and compares the service's processes, mounts, descriptors, cgroups and memory.
Prints one JSON line. `python benchmarks/sandbox.py [--repeats N] [--leak-runs N]`, as root.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from rounds import machine

from megatron_k15.sandbox.local_service import LocalService
from megatron_k15.sandbox.values import Submission

BACKENDS = ("bubblewrap", "crun")
LANGUAGES = '"true":\n  source_name: nothing\n  run: [/bin/true]\n'
RUNS = {"true": Submission(language="true", source=""), "python": Submission(language="python", source="")}
WARM_UP = 20
LEAK_WARM_UP = 500
THREADS_PER_SLOT = 2


class Service:
    """One running sandbox, and the process that serves."""

    def __init__(self, backend: str, languages: Path, stack: contextlib.ExitStack) -> None:
        options = ("--backend", backend, "--languages", str(languages))
        local = stack.enter_context(LocalService(options))
        self.client = local.ready()
        (self.process,) = psutil.Process(local.pid).children()
        self.num_slots = self.client.health(timeout_seconds=10)["slots"]

    def run(self, kind: str) -> None:
        report = self.client.run(RUNS[kind])
        assert report.verdict == "accepted", report

    def run_many(self, kind: str, count: int) -> float:
        """Seconds for `count` runs."""
        started = time.monotonic()
        with ThreadPoolExecutor(THREADS_PER_SLOT * self.num_slots) as threads:
            for _ in threads.map(lambda _: self.run(kind), range(count)):
                pass
        return time.monotonic() - started

    def cpu_seconds(self) -> float:
        """Of the service, and of all that has run in it."""
        times = self.process.cpu_times()
        return times.user + times.system + times.children_user + times.children_system

    def holdings(self) -> dict[str, float]:
        proc = Path("/proc", str(self.process.pid))
        cgroups = Path("/sys/fs/cgroup").rglob(f"k15-sandbox-*-{self.process.pid}")
        return {
            "processes": len(self.process.children(recursive=True)),
            "mounts": len((proc / "mountinfo").read_text().splitlines()),
            "host_mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
            "descriptors": len(os.listdir(proc / "fd")),  # noqa: PTH208 (links that may vanish)
            "cgroups": sum(1 for path in cgroups for below in path.rglob("*") if below.is_dir()),
            "memory_mib": round(self.process.memory_info().rss / 2**20, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200, help="rounds; also runs of each throughput measurement")
    parser.add_argument("--leak-runs", type=int, default=0)
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        languages = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "languages.yaml"
        languages.write_text(LANGUAGES)
        services = {backend: Service(backend, languages, stack) for backend in BACKENDS}
        result = {**_measure(services, arguments.repeats), **_leaks(services, arguments.leak_runs)}
    print(json.dumps({"benchmark": "sandbox", **result, **machine()}))


def _measure(services: dict[str, Service], repeats: int) -> dict[str, Any]:
    steps: dict[str, Callable[[], object]] = {"bare_true": lambda: subprocess.run(["/bin/true"], check=True)}
    for backend, service in services.items():
        steps |= {f"{backend}_{kind}": lambda service=service, kind=kind: service.run(kind) for kind in RUNS}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(WARM_UP + repeats):
        for name, step in list(steps.items())[:: 1 if index % 2 == 0 else -1]:
            started = time.monotonic()
            step()
            if index >= WARM_UP:
                seconds[name].append(time.monotonic() - started)
    ratios = [ours / bare for ours, bare in zip(seconds["bubblewrap_true"], seconds["bare_true"], strict=True)]
    throughput = {backend: _throughput(service, repeats) for backend, service in services.items()}
    return {
        "ratio": round(statistics.median(ratios), 2),
        "baseline": "/bin/true as a child process, without isolation",
        "p50_seconds": {name: round(statistics.median(values), 5) for name, values in seconds.items()},
        "runs_per_second": {backend: values[0] for backend, values in throughput.items()},
        "cpu_seconds_per_run": {backend: values[1] for backend, values in throughput.items()},
        "repeats": repeats,
    }


def _throughput(service: Service, count: int) -> tuple[float, float]:
    before = service.cpu_seconds()
    seconds = service.run_many("true", count)
    return round(count / seconds, 1), round((service.cpu_seconds() - before) / count, 5)


def _leaks(services: dict[str, Service], count: int) -> dict[str, Any]:
    """What each service holds after `count` more runs, less what it held before."""
    if not count:
        return {}
    growth = {}
    for backend, service in services.items():
        service.run_many("true", min(count, LEAK_WARM_UP))
        time.sleep(1)
        before = service.holdings()
        service.run_many("true", count)
        time.sleep(1)
        after = service.holdings()
        growth[backend] = {name: round(after[name] - before[name], 1) for name in before}
    return {"leak_runs": count, "growth": growth}


if __name__ == "__main__":
    main()
