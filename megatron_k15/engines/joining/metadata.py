"""Who has joined and which weight version is current, in a small store: torchrun's own by default, etcd as in the
report (§2.6.3) where an address is given.

Keys: `members/<id>` → a `Member` as JSON; `weights` → {"version": …}. Rank 0 writes; whoever may reach the store can
look.
"""

import asyncio
import base64
import datetime
import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import aiohttp

from megatron_k15.errors import EngineError

PREFIX = "megatron_k15/"
INDEX = "index"
CALL_SECONDS = 5.0

T = TypeVar("T")


class MetadataStore(Protocol):
    """Calls return or fail within seconds."""

    async def put(self, key: str, value: dict[str, Any]) -> None: ...

    async def delete(self, key: str) -> None: ...

    async def read(self, prefix: str) -> dict[str, dict[str, Any]]:
        """Key → value of all keys that begin with `prefix`."""
        ...

    async def close(self) -> None: ...


class C10dMetadata:
    """In a `torch.distributed.Store`. Such a store cannot list its keys: an index of them is kept beside them."""

    def __init__(self, store: Any) -> None:
        """
        Args:
            store: a connection of its own (`Store.clone()`): a call that waits on another's would be waited for here.
        """
        store.set_timeout(datetime.timedelta(seconds=CALL_SECONDS))
        self._store = store
        self._one_at_a_time = asyncio.Lock()

    async def put(self, key: str, value: dict[str, Any]) -> None:
        def put() -> None:
            self._store.set(PREFIX + key, json.dumps(value))
            if key not in (index := self._index()):
                self._store.set(PREFIX + INDEX, json.dumps([*index, key]))

        await self._call(put)

    async def delete(self, key: str) -> None:
        def delete() -> None:
            if key in (index := self._index()):
                self._store.set(PREFIX + INDEX, json.dumps([name for name in index if name != key]))
                self._store.delete_key(PREFIX + key)

        await self._call(delete)

    async def read(self, prefix: str) -> dict[str, dict[str, Any]]:
        def found() -> dict[str, dict[str, Any]]:
            return {key: json.loads(self._store.get(PREFIX + key)) for key in self._index() if key.startswith(prefix)}

        return await self._call(found)

    async def close(self) -> None:
        pass

    def _index(self) -> list[str]:
        return json.loads(self._store.get(PREFIX + INDEX)) if self._store.check([PREFIX + INDEX]) else []

    async def _call(self, call: Callable[[], T]) -> T:
        async with self._one_at_a_time:
            try:
                return await asyncio.to_thread(call)
            except RuntimeError as error:  # torch.distributed.DistError and its like
                raise EngineError(f"torchrun's store does not answer: {error}") from error


class EtcdMetadata:
    """In an etcd (v3), through its HTTP gateway: keys and values in base64."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def put(self, key: str, value: dict[str, Any]) -> None:
        await self._call("put", {"key": _encode(PREFIX + key), "value": _encode(json.dumps(value))})

    async def delete(self, key: str) -> None:
        await self._call("deleterange", {"key": _encode(PREFIX + key)})

    async def read(self, prefix: str) -> dict[str, dict[str, Any]]:
        start = PREFIX + prefix
        end = start[:-1] + chr(ord(start[-1]) + 1)
        answer = await self._call("range", {"key": _encode(start), "range_end": _encode(end)})
        return {
            _decode(item["key"]).removeprefix(PREFIX): json.loads(_decode(item["value"]))
            for item in answer.get("kvs", [])
        }

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _call(self, what: str, body: dict[str, str]) -> dict[str, Any]:
        if self._session is None:  # made inside the event loop, which a constructor need not be
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_SECONDS))
        try:
            async with self._session.post(f"{self._address}/v3/kv/{what}", json=body) as response:
                text = await response.text()
                if response.status != 200:
                    raise EngineError(
                        f"etcd at {self._address} must answer {what}, got {response.status}: {text[:300]}"
                    )
                return json.loads(text)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise EngineError(f"etcd (join.etcd) at {self._address} does not answer: {error!r}") from error


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decode(text: str) -> str:
    return base64.b64decode(text).decode()
