"""Weights by Mooncake's transfer engine over TCP, between two processes of this machine. The package and its libraries
(libibverbs) are not part of the environment: without them this is skipped."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_k15.config import load_config
from megatron_k15.engines.joining.door import Door
from megatron_k15.engines.joining.metadata import C10dMetadata
from megatron_k15.engines.types import WeightUpdate
from megatron_k15.engines.weight_segment import SegmentLayout, WeightSegment
from megatron_k15.errors import ConfigError
from tests.conftest import tiny_engine_config, write_version
from tests.documents import ROOT

TOKEN = "a-secret-of-the-tests-0123456789"
LAYOUT = SegmentLayout.plan([("a", (3000, 70)), ("b", (5,))], "fp32")

READER = """
import asyncio, json, sys
import aiohttp
from megatron_k15.engines.joining.member import authorization
from megatron_k15.engines.joining.mooncake import MooncakeReader
from megatron_k15.engines.joining.weight_download import WeightDownload
from megatron_k15.engines.weight_segment import WeightSegment, read_layout

async def main(url, token, info):
    async with aiohttp.ClientSession(headers=authorization(token)) as session:
        download = WeightDownload(session, url, mooncake=MooncakeReader("127.0.0.1", "tcp"))
        for _ in range(2):
            here = await download.fetch(info)
            layout, checksums = read_layout(here["dtype"], here["tensors"])
            segment = WeightSegment.open(here["path"], layout, writable=False)
            print("equal" if all(segment.checksum(name) == checksums[name] for name in checksums) else "different")
            segment.close()
        download.close()

asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
"""


def test_bytes_arrive_by_mooncake(tiny_model_dir: Path) -> None:
    pytest.importorskip("mooncake.engine", reason="mooncake-transfer-engine is not installed", exc_type=ImportError)
    import json

    segment = WeightSegment.create(LAYOUT)

    async def offer() -> str:
        info = write_version(segment, {"a": torch.randn(3000, 70), "b": torch.randn(5)}, 7)
        store = C10dMetadata(dist.HashStore())
        engine = tiny_engine_config()
        door = Door(store, token=TOKEN, model_dir=tiny_model_dir, dtype="fp32", engine=engine, transfer="mooncake_tcp")
        url = f"http://127.0.0.1:{await door.open('127.0.0.1', 0)}"
        await door.offer(WeightUpdate(info=info, version=7))
        command = [sys.executable, "-c", READER, url, TOKEN, json.dumps(info)]
        try:
            done = await asyncio.to_thread(
                subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
            )
        finally:
            await door.close()
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    try:
        said = [line for line in asyncio.run(offer()).splitlines() if line in ("equal", "different")]
    finally:
        segment.close()
        segment.unlink()
    assert said == ["equal", "equal"]


def test_without_the_package_that_is_said() -> None:
    code = "import sys; sys.modules['mooncake.engine'] = None\n"
    code += "from megatron_k15.engines.joining.mooncake import MooncakeReader; MooncakeReader('127.0.0.1', 'tcp')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )
    assert "needs mooncake-transfer-engine on both sides" in done.stderr


def test_unknown_ways_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"join\.transfer must be one of http, mooncake_tcp, mooncake_rdma"):
        load_config(None, ["join.transfer=pigeon"])
