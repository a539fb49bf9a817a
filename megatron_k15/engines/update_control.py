"""vLLM's trainer-side engines drive an update by four synchronous calls; here they reach every instance of a pool.

trainer's main thread: start → update (once per part) → finish  ──event loop──►  pool
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from megatron_k15.engines.ipc_handles import to_json


class PartwisePool(Protocol):
    """What a pool must offer for updates that come in parts, alike in all instances."""

    async def open_transfer(self, init_infos: Sequence[Mapping[str, object]]) -> None: ...

    async def begin_update(self) -> None: ...

    async def load_part(self, update_info: Mapping[str, object]) -> None: ...

    async def finish_update(self, version: int) -> None: ...


Run = Callable[[Coroutine[Any, Any, None], str], None]
"""Run a coroutine of the pool, with a limit; the text says what is waited for."""


class UpdateControl:
    """vLLM's `VLLMWeightSyncClient` (a protocol of these four methods), on rank 0. Set `version` before each update."""

    def __init__(self, pool: PartwisePool, run: Run, *, tensor_parallel_size: int, num_engines: int) -> None:
        self._pool = pool
        self._run = run
        self._tensor_parallel_size = tensor_parallel_size
        self._num_engines = num_engines
        self.version = 0
        self.error: Exception | None = None
        """Of the call that failed; a broadcast that waits for the other side looks here."""

    @property
    def num_workers(self) -> int:
        """vLLM workers over all instances."""
        return self._num_engines * self._tensor_parallel_size

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None:
        infos = [self._init_info(init_info, index) for index in range(self._num_engines)]
        self._call(self._pool.open_transfer(infos), "vLLM to set up the weight transfer")

    def start_weight_update(self) -> None:
        self._call(self._pool.begin_update(), f"vLLM to make ready for weight version {self.version}")

    def update_weights(self, update_info: Mapping[str, Any]) -> None:
        info = {key: value for key, value in update_info.items() if value is not None}
        if "ipc_handles" in info:
            info["ipc_handles"] = to_json(info["ipc_handles"])
        self._call(self._pool.load_part(info), f"vLLM to load weight version {self.version}")

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call(self._pool.finish_update(self.version), f"vLLM to take up weight version {self.version}")

    def _init_info(self, init_info: Mapping[str, Any], index: int) -> dict[str, Any]:
        """NCCL ranks: the trainer's sender is 0, then instance by instance."""
        info = dict(init_info)
        if "rank_offset" in info:
            info["rank_offset"] += index * self._tensor_parallel_size
        return info

    def _call(self, coroutine: Coroutine[Any, Any, None], waiting_for: str) -> None:
        try:
            self._run(coroutine, waiting_for)
        except Exception as error:
            self.error = error
            raise
