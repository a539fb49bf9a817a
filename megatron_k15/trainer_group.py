"""All trainer ranks as one object on rank 0: the master calls a method, every rank runs it.

Rank 0 posts the name of the call under a numbered store key and broadcasts its arguments; the other ranks sit in
`serve`, waiting on that key (with a limit, and never inside a collective: rollouts take as long as they take), then
run the same method. What a call returns on rank 0 is its result.

    rank 0                          ranks 1..N-1
    group.update(steps)       ──►   serve(): wait key → receive → worker.update(steps)
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_k15.errors import WaitTimeoutError
from megatron_k15.training_worker import TrainingWorker
from megatron_k15.types import TrainingSequence

CALLS = ("start_iteration", "update", "logprobs", "publish", "offload", "onload", "save", "load", "export")
STOP = "stop"
MAX_POLL_SECONDS = 0.2
"""A thousand waiting ranks ask the store 5,000 times a second, at most."""


class TrainerGroup:
    """Rank 0's handle. Every method blocks until rank 0's part is done; collectives inside keep the ranks together."""

    def __init__(self, worker: TrainingWorker, *, wait_timeout_seconds: float) -> None:
        self._worker = worker
        self._wait_timeout_seconds = wait_timeout_seconds
        self._num_calls = 0
        # A store of its own prefix: keys of torch's own collectives cannot collide with ours.
        self._store = dist.PrefixStore("megatron_k15/calls", dist.distributed_c10d._get_default_store())

    def start_iteration(self, iteration: int) -> None:
        self._everywhere("start_iteration", iteration)

    def update(self, steps: Sequence[Sequence[TrainingSequence]]) -> dict[str, float]:
        return self._everywhere("update", [list(step) for step in steps])

    def logprobs(self, sequences: Sequence[TrainingSequence]) -> list[list[float]]:
        return self._everywhere("logprobs", list(sequences))

    def publish(self, version: int) -> dict[str, Any]:
        return self._everywhere("publish", version)

    def offload(self) -> int:
        return self._everywhere("offload")

    def onload(self) -> int:
        return self._everywhere("onload")

    def save(self, iteration: int, master_state: dict[str, Any], attachments: Mapping[str, Path]) -> None:
        self._everywhere("save", iteration, master_state, dict(attachments))

    def load(self, path: str) -> dict[str, Any]:
        return self._everywhere("load", path)

    def export(self, directory: str) -> None:
        self._everywhere("export", directory)

    def stop(self) -> None:
        """Let the other ranks leave `serve`. Safe to call when some of them are gone."""
        self._post(STOP)

    def _everywhere(self, call: str, *arguments: Any) -> Any:
        self._post(call)
        dist.broadcast_object_list([arguments], src=0)
        return getattr(self._worker, call)(*arguments)

    def _post(self, call: str) -> None:
        self._store.set(str(self._num_calls), call)
        self._num_calls += 1

    def serve(self) -> None:
        """Ranks other than 0: run what rank 0 calls until it says stop.

        Raises:
            WaitTimeoutError: no call for `wait_timeout_seconds`.
        """
        while (call := self._next_call()) != STOP:
            received: list[Any] = [None]
            dist.broadcast_object_list(received, src=0)
            getattr(self._worker, call)(*received[0])

    def _next_call(self) -> str:
        key = str(self._num_calls)
        started = time.monotonic()
        # Not `store.wait`: Ctrl-C would wait for its end, and torch writes two lines of warnings whenever it times out.
        while not self._store.check([key]):
            waited = time.monotonic() - started
            if waited > self._wait_timeout_seconds:
                raise WaitTimeoutError(
                    f"rank {dist.get_rank()} waited {self._wait_timeout_seconds:.0f} s for call {key} of the "
                    "master (rank 0), which generates or scores all that time; raise wait_timeout_seconds if that "
                    "is normal"
                )
            time.sleep(min(max(0.001, waited / 20), MAX_POLL_SECONDS))
        self._num_calls += 1
        call = self._store.get(key).decode()
        assert call in CALLS or call == STOP, call
        return call
