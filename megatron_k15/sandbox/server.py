"""The server process: from options to a listening service, and down again on SIGTERM."""

import argparse
import asyncio
import ipaddress
import logging
import socket
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from megatron_k15.errors import ConfigError
from megatron_k15.sandbox.languages import Language, built_in_languages, read_languages
from megatron_k15.sandbox.machine import Machine, MachineConfig
from megatron_k15.sandbox.pool import Pool
from megatron_k15.sandbox.root import Root
from megatron_k15.sandbox.service import build_app

BACKLOG = 1024
log = logging.getLogger(__name__)


def serve(options: argparse.Namespace, token: str | None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: an address that cannot be listened on, or one beyond loopback without a token.
        RequirementError: this machine lacks something that isolation needs.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    languages = built_in_languages() | (read_languages(options.languages) if options.languages else {})
    config = MachineConfig(
        backend=options.backend,
        num_slots=options.slots,
        first_uid=options.first_uid,
        packages=tuple(options.package),
    )
    with _listen(options.listen, token) as listener, Machine(config) as machine:
        asyncio.run(_serve(machine, languages, listener, options, token))


def _listen(address: str, token: str | None) -> socket.socket:
    if address.startswith("unix:"):
        return _listen_on_path(Path(address.removeprefix("unix:")))
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--listen must be HOST:PORT or unix:PATH, got {address!r}")
    host = host.strip("[]")
    if token is None and not _is_loopback(host):
        raise ConfigError(
            f"a sandbox that listens beyond loopback must have a token: set K15_SANDBOX_TOKEN, or listen on 127.0.0.1 "
            f"instead of {host}"
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(port)), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"--listen {address} must be a free address of this machine; {error}") from error


def _listen_on_path(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise ConfigError(f"--listen unix:{path} must be a path that can be made; {error}") from error
    # The file's rights are the token.
    path.chmod(0o600)
    listener.listen(BACKLOG)
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _installed(languages: Mapping[str, Language], root: Root) -> dict[str, Language]:
    """Without a compiler every program would look wrong: its language is better refused."""
    installed = {}
    for name, language in languages.items():
        absent = [words[0] for words in (language.compile, language.run) if words and not root.has(words[0])]
        if absent:
            log.warning("language %s is left out: %s is not installed", name, ", ".join(absent))
        else:
            installed[name] = language
    return installed


async def _serve(
    machine: Machine,
    languages: Mapping[str, Language],
    listener: socket.socket,
    options: argparse.Namespace,
    token: str | None,
) -> None:
    languages = _installed(languages, machine.root)
    pool = Pool(machine.slots, languages, max_waiting=options.max_waiting)
    app = build_app(pool, token=token, max_body_bytes=options.max_body_bytes)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    )
    name = listener.getsockname()
    address = f"unix:{name}" if isinstance(name, str) else f"http://{name[0]}:{name[1]}"
    print(
        f"sandbox ready: {address}, {options.backend}, {pool.num_slots} slots, {', '.join(sorted(languages))}",
        flush=True,
    )
    await server.serve(sockets=[listener])
