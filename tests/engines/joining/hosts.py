"""Another host: a network namespace with a cable to this one. Needs root, as the sandbox's tests do."""

import os
import secrets
import subprocess
from types import TracebackType
from typing import Self


class Host:
    """`with Host() as host:`; `host.unplug()` pulls the cable, `host.plug()` puts it back."""

    def __init__(self) -> None:
        self._name = f"k15{secrets.token_hex(3)}"
        self._cable = f"{self._name}a"
        network = f"10.{os.getpid() % 200 + 20}.{secrets.randbelow(250)}"
        self.here = f"{network}.1"
        """This machine's address on the cable."""
        self.there = f"{network}.2"

    def __enter__(self) -> Self:
        other_end = f"{self._name}b"
        _ip("netns", "add", self._name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", other_end, "netns", self._name)
        _ip("address", "add", f"{self.here}/24", "dev", self._cable)
        _ip("link", "set", self._cable, "up")
        self._inside("address", "add", f"{self.there}/24", "dev", other_end)
        self._inside("link", "set", other_end, "up")
        self._inside("link", "set", "lo", "up")
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _ip("link", "delete", self._cable)
        _ip("netns", "delete", self._name)

    def command(self, *words: str) -> list[str]:
        """The command line that runs `words` over there."""
        return ["ip", "netns", "exec", self._name, *words]

    def unplug(self) -> None:
        _ip("link", "set", self._cable, "down")

    def plug(self) -> None:
        _ip("link", "set", self._cable, "up")

    def _inside(self, *words: str) -> None:
        subprocess.run(self.command("ip", *words), check=True, capture_output=True, timeout=10)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr} (network namespaces need root and iproute2)"
