"""Nobody gets in without the token, and with it only to what the trainer needs."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
import torch.distributed as dist

from megatron_k15.config import JoinConfig, load_config
from megatron_k15.engines import serve
from megatron_k15.engines.joining.door import Door
from megatron_k15.engines.joining.member import authorization, read_token
from megatron_k15.engines.joining.metadata import C10dMetadata
from megatron_k15.engines.joining.proxy import Proxy
from megatron_k15.engines.joining.weight_download import WeightDownload
from megatron_k15.engines.types import WeightUpdate
from megatron_k15.engines.weight_segment import SegmentLayout, WeightSegment
from megatron_k15.errors import ConfigError, TransferError
from tests.conftest import tiny_engine_config, write_version

CLOSED = (("GET", "/model"), ("POST", "/members"), ("GET", "/weights/1"), ("POST", "/pause"), ("GET", "/nothing"))
TOKEN = "a-secret-of-the-tests-0123456789"


def _door(model_dir: Path) -> Door:
    return Door(
        C10dMetadata(dist.HashStore()), token=TOKEN, model_dir=model_dir, dtype="fp32", engine=tiny_engine_config()
    )


async def _status(session: aiohttp.ClientSession, method: str, url: str, **arguments: Any) -> int:
    async with session.request(method, url, **arguments) as response:
        return response.status


@pytest.mark.parametrize("header", [{}, authorization("wrong"), {"Authorization": TOKEN}, authorization(TOKEN + "x")])
def test_without_the_token_every_path_of_both_servers_is_closed(header: dict[str, str], tiny_model_dir: Path) -> None:
    async def knock() -> None:
        door = _door(tiny_model_dir)
        async with aiohttp.ClientSession() as inside:
            proxy = Proxy(lambda: None, WeightDownload(inside, "http://127.0.0.1:9"), token=TOKEN)
            ports = [await door.open("127.0.0.1", 0), await proxy.start("127.0.0.1", 0)]
            async with aiohttp.ClientSession(headers=header) as session:
                for port in ports:
                    for method, path in (
                        ("GET", "/model"),
                        ("POST", "/members"),
                        ("GET", "/weights/1"),
                        ("POST", "/pause"),
                    ):
                        assert await _status(session, method, f"http://127.0.0.1:{port}{path}") == 401
            await door.close()
            await proxy.stop()

    asyncio.run(knock())


def test_with_the_token_only_what_is_listed_can_be_had(tiny_model_dir: Path) -> None:
    async def knock() -> None:
        door = _door(tiny_model_dir)
        url = f"http://127.0.0.1:{await door.open('127.0.0.1', 0)}"
        async with aiohttp.ClientSession(headers=authorization(TOKEN)) as session:
            proxy = Proxy(lambda: None, WeightDownload(session, url), token=TOKEN)
            vllm = f"http://127.0.0.1:{await proxy.start('127.0.0.1', 0)}"
            assert await _status(session, "GET", f"{url}/model/config.json") == 200
            for name in ("model.safetensors", "..%2fconfig.json", "%2fetc%2fpasswd"):
                assert await _status(session, "GET", f"{url}/model/{name}") == 404
            assert await _status(session, "GET", f"{url}/weights/1") == 409
            assert (
                await _status(session, "POST", f"{url}/members", json={"id": "../x", "life": 0, "address": "h:1"})
                == 400
            )
            assert await _status(session, "POST", f"{url}/members", json=[1]) == 400
            assert await _status(session, "POST", f"{url}/members", data=b"x" * 100_000) == 413
            # vLLM's development endpoints run what they are told: none of them passes.
            for path in ("/collective_rpc", "/sleep", "/init_weight_transfer_engine", "/v1/completions"):
                assert await _status(session, "POST", f"{vllm}{path}", json={}) == 404
            assert await _status(session, "GET", f"{vllm}/is_paused") == 503, "vLLM is being started"
            await proxy.stop()
        await door.close()

    asyncio.run(knock())


def test_weights_come_whole_and_of_the_offered_version_alone(tiny_model_dir: Path) -> None:
    layout = SegmentLayout.plan([("a", (300, 7)), ("b", (5,))], "fp32")
    segment = WeightSegment.create(layout)
    tensors = {"a": torch.randn(300, 7), "b": torch.randn(5)}

    async def fetch() -> None:
        door = _door(tiny_model_dir)
        url = f"http://127.0.0.1:{await door.open('127.0.0.1', 0)}"
        async with aiohttp.ClientSession(headers=authorization(TOKEN)) as session:
            download = WeightDownload(session, url)
            info = write_version(segment, tensors, 7)
            with pytest.raises(TransferError, match="version 7 must be offered"):
                await download.fetch(info)
            await door.offer(WeightUpdate(info=info, version=7))
            here = await download.fetch(info)
            assert here["path"] != info["path"]
            assert {**here, "path": ""} == {**info, "path": ""}
            copy = WeightSegment.open(here["path"], layout, writable=False)
            for name, tensor in tensors.items():
                assert torch.equal(copy.tensor(name), tensor)
                assert copy.checksum(name) == segment.checksum(name)
            copy.close()
            larger = {**info, "tensors": [*info["tensors"], ["c", [4096], "0" * 32]]}
            with pytest.raises(TransferError, match=r"bytes, .* came"):
                await download.fetch(larger)
            download.close()
            assert not Path(here["path"]).exists()
        await door.close()

    try:
        asyncio.run(fetch())
    finally:
        segment.close()
        segment.unlink()


def test_a_short_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K15_JOIN_TOKEN", "guess")
    with pytest.raises(ConfigError, match="at least 16 characters in K15_JOIN_TOKEN"):
        read_token("K15_JOIN_TOKEN")


def test_config_rules() -> None:
    with pytest.raises(ConfigError, match=r"join\.listen must be HOST:PORT, got 'here'"):
        JoinConfig(listen="here")
    with pytest.raises(ConfigError, match=r"transfer\.backend=shared_memory, got ipc"):
        load_config(None, ["join.listen=0.0.0.0:1", "transfer.backend=ipc"])


def test_a_refused_token_and_a_run_that_is_not_there_are_one_line(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("K15_JOIN_TOKEN", TOKEN)
    assert serve.main(["--join", "127.0.0.1:9", "--patience-seconds", "0"]) == 1
    assert "error: no run answers at http://127.0.0.1:9 after 0 s (--patience-seconds)" in capsys.readouterr().err
