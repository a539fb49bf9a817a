"""A vLLM instance on another machine, for a run that goes on elsewhere (§2.6.3).

    K15_JOIN_TOKEN=… python -m megatron_k15.engines.serve --join HOST:PORT [--listen HOST:PORT]

Asks rank 0 (`join.listen` of its config) for the model's config and tokenizer, starts vLLM with dummy weights behind an
authenticated proxy, and says every second that it is here. Rank 0 then puts it on the present weights and gives it
work. It may be ended, unplugged or killed at any time.
"""

import argparse
import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import sys
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import aiohttp

from megatron_k15.config import EngineConfig
from megatron_k15.engines.client import EngineClient
from megatron_k15.engines.instance import Instance
from megatron_k15.engines.joining.http_server import join_address, split_address
from megatron_k15.engines.joining.member import Member, authorization, read_token
from megatron_k15.engines.joining.mooncake import MooncakeReader
from megatron_k15.engines.joining.proxy import Proxy
from megatron_k15.engines.joining.weight_download import WeightDownload
from megatron_k15.engines.model_facts import on_cpu, vocab_size
from megatron_k15.engines.plugin import SHARED_MEMORY_BACKEND
from megatron_k15.engines.sidecar import Sidecar
from megatron_k15.engines.weight_segment import remove_stale_segments
from megatron_k15.errors import EngineError, K15Error

BEAT_SECONDS = 1.0
CALL_SECONDS = 10.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="megatron_k15.engines.serve", description="Let this machine's vLLM work for a run elsewhere."
    )
    parser.add_argument("--join", required=True, metavar="HOST:PORT", help="join.listen of the run")
    parser.add_argument(
        "--listen",
        default="",
        metavar="HOST:PORT",
        help="where rank 0 reaches this machine; default: the address towards --join, any free port",
    )
    parser.add_argument("--token-variable", default="K15_JOIN_TOKEN", help="holds the secret (%(default)s)")
    parser.add_argument("--token-file", type=Path, help="a file with the secret, instead")
    parser.add_argument("--token", help="the secret itself; other users of this machine can read it in `ps`")
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--kv-cache-bytes", type=int, help="default: 1 GiB on a CPU, vLLM's own choice on GPUs")
    parser.add_argument("--patience-seconds", type=float, default=3600.0, help="how long to look for the run")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="[serve] %(message)s", stream=sys.stderr)
    try:
        asyncio.run(_until_signalled(options))
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


async def _until_signalled(options: argparse.Namespace) -> None:
    serving = asyncio.ensure_future(serve(options, _token(options)))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def _token(options: argparse.Namespace) -> str:
    if options.token_file is not None:
        return options.token_file.read_text().strip()
    return options.token or read_token(options.token_variable)


async def serve(options: argparse.Namespace, token: str) -> None:
    """Join one run after another, until cancelled.

    Raises:
        EngineError: no run was found within the patience, it refuses the token, or vLLM does not start.
    """
    remove_stale_segments()
    async with aiohttp.ClientSession(headers=authorization(token)) as session:
        run = Run(session, f"http://{options.join}", patience_seconds=options.patience_seconds)
        while True:
            with tempfile.TemporaryDirectory(prefix="k15-joined-") as directory:
                facts = await run.find(Path(directory))
                await _work(options, token, session, run, facts, Path(directory))


class Run:
    """Rank 0's door, from outside."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, patience_seconds: float) -> None:
        self.url = url
        self._session = session
        self._patience_seconds = patience_seconds

    async def find(self, directory: Path) -> dict[str, Any]:
        """Wait for a run, and fetch its model's small files into `directory`; returns what it says of itself."""
        deadline, told = time.monotonic() + self._patience_seconds, 0.0
        while True:
            try:
                facts = await self._call("GET", "/model")
                for name in facts["files"]:
                    await self._fetch(name, directory)
                return facts
            except (aiohttp.ClientError, TimeoutError) as error:
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"no run answers at {self.url} after {self._patience_seconds:g} s (--patience-seconds): "
                        f"{error!r}"
                    ) from error
                if time.monotonic() - told > 30:
                    told = time.monotonic()
                    logging.info("waiting for a run at %s: %r", self.url, error)
                await asyncio.sleep(BEAT_SECONDS)

    async def beat(self, member: Member) -> str:
        """Say that this instance is here; returns which run heard it."""
        return str((await self._call("POST", "/members", member.to_json()))["run"])

    async def leave(self, member: Member) -> None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            await self._call("DELETE", f"/members/{member.id}")

    async def _fetch(self, name: str, directory: Path) -> None:
        if name != Path(name).name or name.startswith("."):
            raise EngineError(f"a model's file is named without folders, got {name!r}")
        async with self._session.get(f"{self.url}/model/{name}", timeout=aiohttp.ClientTimeout(total=60)) as response:
            response.raise_for_status()
            (directory / name).write_bytes(await response.read())

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        async with self._session.request(method, self.url + path, json=body, timeout=timeout) as response:
            if response.status in (400, 401):
                raise EngineError(f"the run at {self.url} refuses: {(await response.text())[:300]}")
            response.raise_for_status()
            return await response.json()


async def _work(
    options: argparse.Namespace,
    token: str,
    session: aiohttp.ClientSession,
    run: Run,
    facts: dict[str, Any],
    directory: Path,
) -> None:
    """Serve one run, until another takes its place."""
    instance = _instance(options, facts, directory)
    host, port = split_address(options.listen) if options.listen else (_address_towards(options.join), 0)
    way, _, protocol = facts["transfer"].partition("_")
    mooncake = MooncakeReader(host, protocol) if way == "mooncake" else None
    download = WeightDownload(session, run.url, mooncake=mooncake)
    proxy = Proxy(lambda: instance.client, download, token=token)
    member = Member(id=f"{socket.gethostname()[:40]}-{secrets.token_hex(4)}", life=0, address="")
    try:
        await instance.start()
        port = await proxy.start(host, port)
        member = replace(member, address=join_address(host, port))
        logging.info("vLLM is up; joining %s as %s", run.url, member.address)
        await _beat(run, instance, member, facts["run"])
    finally:
        await run.leave(member)
        await proxy.stop()
        await instance.stop()
        download.close()


async def _beat(run: Run, instance: Instance, member: Member, this_run: str) -> None:
    """Until another run answers. Rank 0 hears nothing while vLLM is being restarted, and of a new life afterwards."""
    while True:
        if instance.error is not None:
            raise instance.error
        if instance.is_ready:
            try:
                if await run.beat(replace(member, life=instance.num_restarts)) != this_run:
                    logging.info("another run has begun: starting anew for it")
                    return
            except (aiohttp.ClientError, TimeoutError) as error:
                logging.info("the run does not answer: %r", error)
        await asyncio.sleep(BEAT_SECONDS)


def _instance(options: argparse.Namespace, facts: dict[str, Any], directory: Path) -> Instance:
    known = {item.name for item in fields(EngineConfig)}
    config = replace(
        EngineConfig(**{name: value for name, value in facts["engine"].items() if name in known}),
        num_engines=1,
        tensor_parallel_size=options.tensor_parallel_size,
        kv_cache_bytes=options.kv_cache_bytes,
    )

    def sidecar() -> Sidecar:
        return Sidecar(
            index=0,
            config=config,
            model_dir=directory,
            dtype=facts["dtype"],
            log_path=Path("logs") / f"vllm_joined_{socket.gethostname()}.log",
            backend=SHARED_MEMORY_BACKEND,
            on_cpu=on_cpu(),
            vocab_size=vocab_size(directory),
            colocate="restart",  # starts with dummy weights: rank 0 sends its own
            on_progress=logging.info,
        )

    async def prepare(client: EngineClient) -> None:
        await client.init_weight_transfer({}, CALL_SECONDS)
        await client.pause()  # dummy weights answer nobody

    return Instance(0, config, sidecar, prepare)


def _address_towards(address: str) -> str:
    """This machine's own address on the way to `address`. Nothing is sent."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return probe.getsockname()[0]


if __name__ == "__main__":
    sys.exit(main())
