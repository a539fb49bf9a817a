"""Which vLLM answers which request: the ready one with the fewest in flight. What a dead one leaves is sent again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from megatron_k15.engines.client import EngineClient, EngineGone, EngineSilent
from megatron_k15.engines.instance import Instance
from megatron_k15.engines.joining.joined import JoinedInstance
from megatron_k15.errors import EngineError

T = TypeVar("T")
Call = Callable[[EngineClient], Awaitable[T]]


class Dispatch:
    def __init__(
        self, instances: Sequence[Instance], joined: Callable[[], Sequence[JoinedInstance]], *, max_concurrent: int
    ) -> None:
        """
        Args:
            instances: the pool's own.
            joined: those of other machines that are ready now.
            max_concurrent: requests in flight per instance; more wait.
        """
        self._instances = instances
        self._joined = joined
        self._max_concurrent = max_concurrent
        self._room = asyncio.Condition()
        self.num_resent = 0
        self.num_answered_by_joined = 0
        self.error: EngineError | None = None
        """While set, no instance may be given a request, and those that wait fail with it."""

    async def on_any(self, call: Call[T]) -> T:
        """Survives the death of the vLLM that works on it.

        Raises:
            EngineError: no instance is left, `error` is set, or vLLM gave an answer that must not be used.
        """
        while True:
            instance = await self._claim()
            try:
                if isinstance(instance, Instance):
                    return await self._ask(instance, call)
                answer = await _try(instance, call)
                self.num_answered_by_joined += 1
                return answer
            except EngineGone:
                self.num_resent += 1
            finally:
                instance.num_in_flight -= 1
                await self.wake()

    async def on(self, instance: Instance, call: Call[T]) -> T:
        """On this one of the pool's own, through its restarts."""
        while True:
            try:
                return await self._ask(instance, call)
            except EngineGone:
                self.num_resent += 1

    async def wake(self) -> None:
        """Something changed: let those look again who wait for a place."""
        async with self._room:
            self._room.notify_all()

    async def _claim(self) -> Instance | JoinedInstance:
        async with self._room:
            while True:
                if error := self.error or next((i.error for i in self._instances if i.error is not None), None):
                    raise error
                every: list[Instance | JoinedInstance] = [*self._instances, *self._joined()]
                free = [instance for instance in every if instance.num_in_flight < self._max_concurrent]
                if free:
                    best = min(free, key=lambda instance: (not instance.is_ready, instance.num_in_flight))
                    best.num_in_flight += 1
                    return best
                await self._room.wait()

    async def _ask(self, instance: Instance, call: Call[T]) -> T:
        client = await instance.ready_client()
        try:
            return await call(client)
        except EngineSilent as error:
            raise EngineError(f"{error}, the limit of one request (rollout.request_timeout_seconds)") from error
        except EngineGone:
            instance.suspect(client)
            raise


async def _try(joined: JoinedInstance, call: Call[T]) -> T:
    """Whatever goes wrong there, the request goes elsewhere."""
    client = await joined.ready_client()
    try:
        return await call(client)
    except EngineGone:
        joined.suspect(client)
        raise
    except EngineError as error:
        await joined.drop(str(error))
        raise EngineGone(str(error)) from error
