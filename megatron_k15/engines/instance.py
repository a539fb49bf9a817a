"""One vLLM of the pool, kept alive: STARTING → READY → (died or hung) → STARTING → ... → FAILED.

`shut_down` ends it on purpose: READY → DOWN, until `start`.

The pool talks to an instance through `ready_client`; a client it got stays valid until that vLLM dies.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from megatron_k15.config import EngineConfig
from megatron_k15.engines.client import EngineClient, EngineGone
from megatron_k15.engines.sidecar import Sidecar
from megatron_k15.errors import EngineError

BUSY_PATIENCE = 5
"""An engine core that computes while it is silent (one step of the model may take minutes) gets so many times the hang
limit."""

logger = logging.getLogger(__name__)

Prepare = Callable[[EngineClient], Awaitable[None]]
"""Brings a fresh vLLM to the pool's present state: weight transfer, current weights, paused or not."""


class Instance:
    def __init__(self, index: int, config: EngineConfig, new_sidecar: Callable[[], Sidecar], prepare: Prepare) -> None:
        self.index = index
        self.num_in_flight = 0
        self.num_restarts = 0
        self.updating = False
        """A weight update holds the engine core: it has its own time limit, the hang limit does not apply."""
        self._config = config
        self._new_sidecar = new_sidecar
        self._prepare = prepare
        self._sidecar: Sidecar | None = None
        self._ready = asyncio.Event()
        self._suspect = asyncio.Event()
        self._error: EngineError | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._has_run = False

    async def start(self) -> None:
        """For the first time, or after `shut_down`; only then a failing start is tried again, as after a death."""
        try:
            await self._start_vllm()
        except EngineError as error:
            if not self._has_run:
                raise
            await self._restart(f"did not start again: {error}")
        self._has_run = True
        self._keeper = asyncio.create_task(self._keep_alive(), name=f"vllm-{self.index}-keeper")
        self._keeper.add_done_callback(self._on_keeper_done)

    async def shut_down(self) -> None:
        """End this vLLM, which is no fault of its: no restart is counted. Nothing may be in flight."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        self._ready.clear()
        if self._sidecar is not None:
            await self._sidecar.stop()

    async def stop(self) -> None:
        self._give_up(EngineError(f"vLLM {self.index} was stopped"))
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._sidecar is not None:
            await self._sidecar.stop()

    @property
    def is_ready(self) -> bool:
        return self._ready.is_set() and self._error is None

    @property
    def error(self) -> EngineError | None:
        """Why this instance has been given up; None while it is alive or being restarted."""
        return self._error

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the present vLLM's processes."""
        return self._sidecar.pids if self._sidecar is not None else ()

    @property
    def resident_bytes(self) -> int:
        """Resident memory of the present vLLM's processes."""
        return self._sidecar.resident_bytes() if self._sidecar is not None else 0

    @property
    def client(self) -> EngineClient | None:
        """Of the present vLLM; None while there is none that may be asked."""
        return self._sidecar.client if self.is_ready and self._sidecar is not None else None

    async def ready_client(self) -> EngineClient:
        """Wait, through restarts, for a vLLM that has the current weights.

        Raises:
            EngineError: this instance has been given up.
        """
        await self._ready.wait()
        if self._error is not None:
            raise self._error
        assert self._sidecar is not None
        assert self._sidecar.client is not None
        return self._sidecar.client

    def suspect(self, client: EngineClient) -> None:
        """Say that `client`'s connection failed: have its vLLM looked at now, and nobody sent there meanwhile."""
        if self._sidecar is not None and self._sidecar.client is client and self._error is None:
            self._ready.clear()
            self._suspect.set()

    async def _start_vllm(self) -> None:
        self._sidecar = self._new_sidecar()
        client = await self._sidecar.start()
        try:
            await self._prepare(client)
        except EngineGone as error:
            raise EngineError(f"vLLM {self.index} died while it was being prepared: {error}") from error
        self._suspect.clear()
        self._ready.set()

    async def _keep_alive(self) -> None:
        """Restart vLLM whenever it dies or hangs, until max_restarts."""
        while True:
            reason = await self._until_dead()
            self._ready.clear()
            try:
                await self._restart(reason)
            except EngineError as error:
                logger.error("vLLM %d is given up: %s", self.index, error)
                self._give_up(error)
                return

    def _on_keeper_done(self, keeper: "asyncio.Task[None]") -> None:
        """A fault of ours in the keeper must not leave requests waiting for a restart that never comes."""
        if not keeper.cancelled() and (fault := keeper.exception()) is not None:
            logger.error("vLLM %d is not watched any more", self.index, exc_info=fault)
            self._give_up(EngineError(f"vLLM {self.index} is not watched any more: {fault!r}"))

    def _give_up(self, error: EngineError) -> None:
        self._error = self._error or error
        self._ready.set()

    async def _until_dead(self) -> str:
        """Why the present vLLM must be replaced."""
        assert self._sidecar is not None
        assert self._sidecar.client is not None
        sidecar, client = self._sidecar, self._sidecar.client
        hang_seconds = self._config.hang_timeout_seconds
        silent_since, cpu_seconds = time.monotonic(), sidecar.cpu_seconds()
        while sidecar.is_alive and not client.engine_is_dead:
            if await client.answers(limit_seconds=min(hang_seconds, 5.0)) or self.updating:
                silent_since, cpu_seconds = time.monotonic(), sidecar.cpu_seconds()
                if self._suspect.is_set():  # a connection broke, yet vLLM is well
                    self._suspect.clear()
                    self._ready.set()
            elif (silent := time.monotonic() - silent_since) > hang_seconds:
                computes = sidecar.cpu_seconds() - cpu_seconds > silent / 2
                if not computes or silent > BUSY_PATIENCE * hang_seconds:
                    return f"has not answered for {silent:.0f} s (engine.hang_timeout_seconds: {hang_seconds:g})"
            await self._pause_between_checks()
        return sidecar.exit_summary()

    async def _pause_between_checks(self) -> None:
        if self._suspect.is_set():
            await asyncio.sleep(0.2)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._suspect.wait(), self._config.health_interval_seconds)

    async def _restart(self, reason: str) -> None:
        assert self._sidecar is not None
        await self._sidecar.stop()
        while True:
            self.num_restarts += 1
            if self.num_restarts > self._config.max_restarts:
                raise EngineError(
                    f"vLLM {self.index} may be restarted at most {self._config.max_restarts} times "
                    f"(engine.max_restarts); it {reason}"
                )
            logger.warning("vLLM %d is restarted (%d): it %s", self.index, self.num_restarts, reason)
            try:
                await self._start_vllm()
                return
            except EngineError as error:
                reason = str(error)
                await self._sidecar.stop()
