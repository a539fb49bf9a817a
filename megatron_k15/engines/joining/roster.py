"""All instances that joined: who is there by the metadata store, on the pool's weight version or without work.

The pool tells it what happens to the weights (`hold`, `follow`) and to sampling (`pause`, `resume`, `abort`); the
roster watches who comes and who falls silent. Nothing here makes the pool wait.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from megatron_k15.config import EngineConfig, JoinConfig
from megatron_k15.engines.client import EngineClient
from megatron_k15.engines.joining.door import Door
from megatron_k15.engines.joining.http_server import split_address
from megatron_k15.engines.joining.joined import Check, JoinedInstance
from megatron_k15.engines.joining.member import Member, authorization
from megatron_k15.engines.joining.metadata import MetadataStore
from megatron_k15.engines.types import WeightUpdate
from megatron_k15.errors import EngineError

WATCH_SECONDS = 0.5
CHECK_SECONDS = 2.0

logger = logging.getLogger(__name__)


class Roster:
    def __init__(
        self,
        config: JoinConfig,
        store: MetadataStore,
        *,
        token: str,
        model_dir: Path,
        dtype: str,
        engine: EngineConfig,
        vocab_size: int,
        weight_timeout_seconds: float,
    ) -> None:
        self._config = config
        self._store = store
        self._token = token
        self._vocab_size = vocab_size
        self._weight_timeout_seconds = weight_timeout_seconds
        self._door = Door(store, token=token, model_dir=model_dir, dtype=dtype, engine=engine, transfer=config.transfer)
        self._members: dict[str, JoinedInstance] = {}
        self._dropped: dict[str, float] = {}
        """When an instance that is still heard of was dropped: it is not taken back at once."""
        self._update: WeightUpdate | None = None
        self._paused = False
        self._watcher: asyncio.Task[None] | None = None
        self._check: Check | None = None
        self._on_ready: Callable[[], Awaitable[None]] | None = None
        self.port = 0

    async def start(self, *, check: Check, on_ready: Callable[[], Awaitable[None]]) -> None:
        """Open the door.

        Args:
            check: compares a joined instance with one of the pool's own.
            on_ready: called when there is room for more requests.

        Raises:
            EngineError: join.listen cannot be listened on.
        """
        self._check, self._on_ready = check, on_ready
        self.port = await self._door.open(*split_address(self._config.listen))
        self._watcher = asyncio.create_task(self._watch(), name="joined-instances")

    @property
    def is_open(self) -> bool:
        return self._watcher is not None

    async def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await asyncio.gather(*(joined.drop("the run ends") for joined in self._members.values()))
        await self._door.close()
        await self._store.close()

    @property
    def ready(self) -> list[JoinedInstance]:
        return [joined for joined in self._members.values() if joined.is_ready]

    @property
    def present(self) -> list[JoinedInstance]:
        """Ready or not, but not dropped."""
        return [joined for joined in self._members.values() if not joined.gone]

    async def hold(self) -> None:
        """The pool's weights change, or are gone: what is in flight freezes, nothing new is sent."""
        self._update = None
        for joined in self.present:
            joined.hold()

    async def follow(self, update: WeightUpdate) -> None:
        """Put everybody on this version, in the background; what is in flight freezes first."""
        await self.hold()
        self._update = update
        try:
            await self._door.offer(update)
        except EngineError as error:
            logger.warning("joined instances stay without work: %s", error)
            return
        for joined in self.present:
            self._load(joined)

    async def wait_for_loads(self) -> None:
        """Until all have their version or are gone, or `join.load_wait_seconds` have passed."""
        loads = [joined.loading for joined in self.present if joined.loading is not None]
        if loads:
            await asyncio.wait(loads, timeout=self._config.load_wait_seconds)

    async def pause(self, mode: str) -> None:
        self._paused = True
        await self._on_ready_ones("pause", lambda client: client.pause(mode))

    async def resume(self) -> None:
        self._paused = False
        await self._on_ready_ones("resume", lambda client: client.resume())

    async def abort(self) -> None:
        await self._on_ready_ones("abort", lambda client: client.abort_all())

    async def _on_ready_ones(self, what: str, call: Callable[[EngineClient], Awaitable[None]]) -> None:
        async def one(joined: JoinedInstance) -> None:
            try:
                await asyncio.wait_for(joined.try_call(what, call), self._config.check_timeout_seconds)
            except TimeoutError:
                await joined.drop(f"{what} was not answered in {self._config.check_timeout_seconds:g} s")

        await asyncio.gather(*(one(joined) for joined in self.ready))

    def _load(self, joined: JoinedInstance) -> None:
        assert self._update is not None
        assert self._check is not None
        assert self._on_ready is not None
        joined.load(self._update, check=self._check, resume=not self._paused, on_ready=self._on_ready)

    async def _watch(self) -> None:
        while True:
            try:
                await self._look()
            except EngineError as error:  # the store is away for a while: those who are here stay
                logger.warning("%s", error)
            await asyncio.sleep(WATCH_SECONDS)

    async def _look(self) -> None:
        found = _members(await self._store.read("members/"))
        now = time.time()
        heard = {id: member for id, (member, when) in found.items() if now - when < self._config.patience_seconds}
        for id, joined in list(self._members.items()):
            if id not in heard:
                silent = id in found
                await joined.drop(f"silent for {self._config.patience_seconds:g} s" if silent else "it left")
                del self._members[id]
            elif joined.gone:
                del self._members[id]
                self._dropped[id] = time.monotonic()
        for id, member in heard.items():
            if time.monotonic() - self._dropped.get(id, -math.inf) > self._config.patience_seconds:
                await self._meet(id, member)
        await asyncio.gather(*(joined.check(CHECK_SECONDS) for joined in self.present))

    async def _meet(self, id: str, member: Member) -> None:
        if (known := self._members.get(id)) is not None:
            if known.member == member:
                return
            await known.drop("its vLLM was started anew")
        client = EngineClient.over_network(
            member.address, headers=authorization(self._token), vocab_size=self._vocab_size
        )
        joined = JoinedInstance(member, client, weight_timeout_seconds=self._weight_timeout_seconds)
        self._members[id] = joined
        logger.warning("vLLM at %s joins", member.address)
        if self._update is not None:
            self._load(joined)


def _members(found: Mapping[str, Any]) -> dict[str, tuple[Member, float]]:
    """Id → member, and when it was heard of. An etcd may hold what others put there: that is nobody."""
    members = {}
    for value in found.values():
        with contextlib.suppress(KeyError, TypeError, ValueError):
            member = Member.from_json(value)
            members[member.id] = member, float(value["heard"])
    return members
