"""A real etcd, from Debian's package without installing it: that would start a service on this machine."""

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.documents import ROOT

CACHE = ROOT / ".cache" / "etcd"


def _program() -> str:
    if found := shutil.which("etcd"):
        return found
    program = CACHE / "usr" / "bin" / "etcd"
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        fetch = "apt-get download -qq etcd-server || { apt-get update -qq && apt-get download -qq etcd-server; }"
        commands = f"{fetch} && dpkg -x etcd-server_*.deb . && rm etcd-server_*.deb"
        done = subprocess.run(["bash", "-euc", commands], cwd=CACHE, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, f"etcd could not be fetched: {done.stderr}"
    return str(program)


@contextlib.contextmanager
def running_etcd(folder: Path) -> Iterator[str]:
    """Its address, once it answers."""
    client, peer = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
    command = [_program(), "--data-dir", str(folder / "etcd"), "--listen-client-urls", client]
    command += ["--advertise-client-urls", client, "--listen-peer-urls", peer]
    command += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
    with (folder / "etcd.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as etcd:
        try:
            deadline = time.monotonic() + 30
            while not _answers(client):
                assert etcd.poll() is None, (folder / "etcd.log").read_text()[-2000:]
                assert time.monotonic() < deadline, "etcd did not answer within 30 s"
                time.sleep(0.1)
            yield client
        finally:
            etcd.kill()


def _answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=1) as answer:
        return answer.status == 200
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
