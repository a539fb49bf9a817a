"""Both stores keep what is put there, on a real TCPStore and a real etcd."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from megatron_k15.engines.joining.metadata import C10dMetadata, EtcdMetadata, MetadataStore
from megatron_k15.errors import EngineError
from tests.engines.joining.etcd import running_etcd


@pytest.fixture(params=["c10d", "etcd"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MetadataStore]:
    if request.param == "c10d":
        server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        yield C10dMetadata(dist.PrefixStore("run", server).clone())
        return
    with running_etcd(tmp_path) as address:
        yield EtcdMetadata(address)


def test_what_is_put_is_read_until_it_is_deleted(store: MetadataStore) -> None:
    async def use() -> None:
        assert await store.read("members/") == {}
        await store.put("members/a", {"address": "10.0.0.1:1", "heard": 1.5})
        await store.put("members/b", {"address": "ü"})
        await store.put("members/a", {"heard": 2.5})
        await store.put("weights", {"version": 3})
        assert await store.read("members/") == {"members/a": {"heard": 2.5}, "members/b": {"address": "ü"}}
        await store.delete("members/a")
        await store.delete("members/nobody")
        assert await store.read("members/") == {"members/b": {"address": "ü"}}
        assert await store.read("weights") == {"weights": {"version": 3}}
        await store.close()

    asyncio.run(use())


def test_an_etcd_that_is_not_there_is_named() -> None:
    async def use() -> None:
        store = EtcdMetadata("http://127.0.0.1:9")
        with pytest.raises(EngineError, match=r"etcd \(join\.etcd\) at http://127\.0\.0\.1:9 does not answer"):
            await store.read("members/")
        await store.close()

    asyncio.run(use())
