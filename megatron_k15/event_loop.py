"""An asyncio loop on a thread of its own, so that the main thread can train.

vLLM's health checks and restarts go on while a training step runs; Ctrl-C reaches the main thread, which cancels what
it waits for.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from types import TracebackType
from typing import Any, Self, TypeVar

from megatron_k15.errors import WaitTimeoutError

Result = TypeVar("Result")


class EventLoopThread:
    """`run(coroutine, seconds=…, waiting_for=…)` from the main thread."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event-loop", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    def run(self, coroutine: Coroutine[Any, Any, Result], *, seconds: float, waiting_for: str) -> Result:
        """Run `coroutine` on the loop and return its result.

        Raises:
            WaitTimeoutError: it took longer than `seconds`; it is cancelled.
        """
        return self.wait(self.start(coroutine), seconds=seconds, waiting_for=waiting_for)

    def start(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Let `coroutine` run while the main thread does something else; `wait` fetches its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def wait(self, future: Future[Result], *, seconds: float, waiting_for: str) -> Result:
        """As `run`, of what `start` gave."""
        try:
            return future.result(timeout=seconds)
        except FutureTimeoutError as error:
            if future.done():  # the coroutine itself raised a TimeoutError
                raise
            raise WaitTimeoutError(f"waited {seconds:.0f} s for {waiting_for}") from error
        finally:
            future.cancel()
