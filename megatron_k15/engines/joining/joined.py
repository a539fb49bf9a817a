"""One instance on another machine, as the pool sees it: JOINING → READY ⇄ LOADING → GONE.

It never stops the run: whatever it does wrong, or does not do in time, makes it GONE, its requests are sent again
elsewhere, and it may join anew.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from megatron_k15.engines.client import EngineClient, EngineGone
from megatron_k15.engines.joining.member import Member
from megatron_k15.engines.types import WeightUpdate
from megatron_k15.errors import EngineError

logger = logging.getLogger(__name__)

Check = Callable[[EngineClient, WeightUpdate], Awaitable[None]]
"""Raises EngineError unless it holds this version's weights."""
OnReady = Callable[[], Awaitable[None]]


class JoinedInstance:
    def __init__(self, member: Member, client: EngineClient, *, weight_timeout_seconds: float) -> None:
        self.member = member
        self.num_in_flight = 0
        self.version: int | None = None
        """Of the weights it holds; None before the first."""
        self.gone: str = ""
        """Why it was dropped; empty while it was not."""
        self._client = client
        self._weight_timeout_seconds = weight_timeout_seconds
        self._ready = False
        self.loading: asyncio.Task[None] | None = None
        """The load under way."""
        self._pausing: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        return self._ready and not self.gone

    async def ready_client(self) -> EngineClient:
        """Never waits: there are others.

        Raises:
            EngineGone: it is not ready.
        """
        if not self.is_ready:
            raise EngineGone(f"vLLM at {self.member.address} is not ready")
        return self._client

    def suspect(self, client: EngineClient) -> None:
        """A connection to it failed: nothing is sent there before it has answered a check."""
        self._ready = False

    async def check(self, limit_seconds: float) -> None:
        """Take it back after a failed connection if it answers with the weights it should have."""
        if not self._ready and not self.gone and self.loading is None and self.version is not None:
            self._ready = await self._client.answers(limit_seconds)

    def load(
        self, update: WeightUpdate, *, check: Check, resume: bool, on_ready: Callable[[], Awaitable[None]]
    ) -> None:
        """Put it on a version, in the background. A load under way is given up for this one."""
        self._ready = False
        self.cancel()
        self.loading = asyncio.create_task(self._load(update, check, resume, on_ready))

    def hold(self) -> None:
        """Send it nothing until the next `load`; what is in flight there freezes."""
        self._ready = False
        self.cancel()
        self.version = None
        self._pausing = asyncio.create_task(self.try_call("pause", lambda client: client.pause()))

    def cancel(self) -> None:
        if self.loading is not None:
            self.loading.cancel()
            self.loading = None

    async def try_call(self, what: str, call: Callable[[EngineClient], Awaitable[None]]) -> None:
        """A control call that makes it GONE where it fails."""
        if self.gone:
            return
        try:
            await call(self._client)
        except (EngineGone, EngineError) as error:
            await self.drop(f"{what} failed: {error}")

    async def drop(self, reason: str) -> None:
        """Close its connections: its requests fail with EngineGone and are sent elsewhere."""
        if not self.gone:
            self.gone = reason
            self.cancel()
            logger.warning("vLLM at %s is dropped: %s", self.member.address, reason)
            await self._client.close()

    async def _load(self, update: WeightUpdate, check: Check, resume: bool, on_ready: OnReady) -> None:
        client = self._client
        if self._pausing is not None:
            await self._pausing  # one that arrives late would freeze what is resumed below
        try:
            await client.pause()
            await client.load_weights(update, self._weight_timeout_seconds)
            if resume:
                await client.resume()
            await check(client, update)
        except (EngineGone, EngineError) as error:
            self.loading = None
            await self.drop(f"weight version {update.version}: {error}")
            return
        self.loading = None
        self.version, self._ready = update.version, True
        logger.warning("vLLM at %s has weight version %d", self.member.address, update.version)
        await on_ready()
