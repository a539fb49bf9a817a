"""Speaks to a sandbox: one connection per request, standard library only, from any thread.

`SandboxClient.run` asks once. What to do when nobody answers is the business of `rewards/code.py` and of the tools.
"""

import http.client
import json
import socket
from dataclasses import asdict
from typing import Any

from megatron_k15.errors import ConfigError
from megatron_k15.sandbox.errors import SandboxError
from megatron_k15.sandbox.values import Report, Submission


class SandboxGoneError(SandboxError):
    """No answer, or none that is one: the sandbox died, hangs, or is not there. The same request may be sent again."""


class SandboxBusyError(SandboxError):
    """Its queue is full, or it could make no jail: send the same request again later."""


class SandboxClient:
    """
    Args:
        address: `http://HOST:PORT` or `unix:PATH`, as the sandbox prints it.
        token: what a sandbox beyond loopback asks for.
        timeout_seconds: longest silence of the sandbox; a submission waits its turn in that time.
    """

    def __init__(self, address: str, *, token: str | None = None, timeout_seconds: float = 600.0) -> None:
        if not address.startswith(("http://", "unix:")):
            raise ConfigError(f"a sandbox's address must be http://HOST:PORT or unix:PATH, got {address!r}")
        self.address = address
        self._token = token
        self._timeout_seconds = timeout_seconds

    def run(self, submission: Submission) -> Report:
        """Raises:
        SandboxGoneError, SandboxBusyError: ask again.
        SandboxError: the sandbox refuses this request: a wrong token, an unknown language, a checker that is none.
        """
        return Report.from_json(self._call("POST", "/v1/run", asdict(submission), self._timeout_seconds))

    def languages(self) -> tuple[str, ...]:
        """Names that a submission's `language` may have. Raises as `run` does."""
        return tuple(self._call("GET", "/v1/languages", None, self._timeout_seconds)["languages"])

    def health(self, *, timeout_seconds: float) -> dict[str, Any]:
        """Raises SandboxGoneError unless the answer comes in time."""
        return self._call("GET", "/health", None, timeout_seconds)

    def _call(self, method: str, path: str, body: Any, timeout_seconds: float) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        connection = self._connection(timeout_seconds)
        try:
            connection.request(method, path, _encoded(body) if body is not None else None, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise SandboxGoneError(f"the sandbox at {self.address} must answer; {error!r}") from error
        finally:
            connection.close()
        return self._answer(response.status, content)

    def _connection(self, timeout_seconds: float) -> http.client.HTTPConnection:
        if self.address.startswith("unix:"):
            return _UnixConnection(self.address.removeprefix("unix:"), timeout_seconds)
        return http.client.HTTPConnection(self.address.removeprefix("http://").rstrip("/"), timeout=timeout_seconds)

    def _answer(self, status: int, content: bytes) -> Any:
        try:
            answer = json.loads(content)
            if status == 200:
                return answer
            message = f"the sandbox at {self.address} answered {status}: {answer['error']}"
        except (ValueError, KeyError, TypeError) as error:
            text = content[:200].decode(errors="replace")
            raise SandboxGoneError(f"no sandbox answers at {self.address}; status {status}: {text}") from error
        raise SandboxBusyError(message) if status in (429, 503) else SandboxError(message)


def _encoded(body: Any) -> bytes:
    """A lone half of a surrogate pair, which Python's text may hold and JSON may not, becomes a question mark."""
    return json.dumps(body, ensure_ascii=False).encode(errors="replace")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__("sandbox", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
