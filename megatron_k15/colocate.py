"""Who owns the devices (§2.6.3), as written states.

    TRAIN ── weights into shared memory ──► OFFLOAD ── trainer's memory given away ──► TRANSFER ── vLLM takes memory,
      ▲                                                                                   │        loads, is probed
      └── trainer's memory taken back ◄── RELEASE ◄── vLLM's memory given back ── ROLLOUT ◄┘

With `colocate.mode=off` both sides keep their memory: the same states, in which nothing is given or taken. Every
transition that moves memory leaves a line with its bytes and seconds, and metrics of the same name.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from enum import Enum

import torch

from megatron_k15.config import Config
from megatron_k15.engines.pool import EnginePool
from megatron_k15.engines.sidecar import OnProgress
from megatron_k15.event_loop import EventLoopThread
from megatron_k15.metrics import Progress
from megatron_k15.trainer_group import TrainerGroup
from megatron_k15.transfer.probe import Gap
from megatron_k15.types import TrainingSequence
from megatron_k15.weight_sync import WeightSync


class State(Enum):
    TRAIN = "train"
    OFFLOAD = "offload"
    TRANSFER = "transfer"
    ROLLOUT = "rollout"
    RELEASE = "release"


NEXT = {
    State.TRAIN: State.OFFLOAD,
    State.OFFLOAD: State.TRANSFER,
    State.TRANSFER: State.ROLLOUT,
    State.ROLLOUT: State.RELEASE,
    State.RELEASE: State.TRAIN,
}


class Colocation:
    """`to_rollout` and `to_train`, on the main thread. Starts in TRAIN, with vLLM running beside the trainer."""

    def __init__(
        self,
        trainers: TrainerGroup,
        pool: EnginePool,
        sync: WeightSync,
        loop: EventLoopThread,
        progress: Progress,
        config: Config,
    ) -> None:
        self.state = State.TRAIN
        self.transitions: dict[str, float] = {}
        """`<state>_seconds` and `<state>_bytes` of the latest of each kind, for the metrics."""
        self.on_state: Callable[[State], None] | None = None
        """Told of every state that has been reached."""
        self._trainers = trainers
        self._pool = pool
        self._sync = sync
        self._loop = loop
        self._progress = progress
        self._config = config.colocate
        self._swaps = config.colocate.mode != "off"
        self._limit_seconds = config.transfer.timeout_seconds
        self._start_seconds = config.engine.startup_timeout_seconds + 60.0
        self._vllm_is_up = True
        self._starting: Future[None] | None = None

    def to_rollout(self, *, version: int, probe: Sequence[TrainingSequence]) -> Gap:
        """TRAIN → OFFLOAD → TRANSFER → ROLLOUT: vLLM samples from exactly the trainer's weights, version `version`.

        Raises:
            TransferError: weights arrived damaged, or the logprobs part by more than the limit.
            OffloadError: there is no room for the trainer's bytes.
        """
        assert self.state is State.TRAIN, self.state
        if self._config.start_early:
            self._start_taking_back(lambda text: None)
        update = self._sync.write(version=version, probe=probe)
        self._enter(State.OFFLOAD, self._trainers.offload if self._swaps else None)
        gap = Gap(mean=0.0, max=0.0, num_tokens=0)

        def load() -> int:
            nonlocal gap
            before = self._vllm_bytes()
            if self._swaps:
                self._take_back()
            gap = self._sync.load(update)
            return self._vllm_bytes() - before

        self._enter(State.TRANSFER, load)
        self._enter(State.ROLLOUT, None)
        return gap

    def to_train(self) -> None:
        """ROLLOUT → RELEASE → TRAIN; nothing happens in TRAIN."""
        if self.state is State.TRAIN:
            return
        self._enter(State.RELEASE, self._release if self._swaps else None)
        self._enter(State.TRAIN, self._trainers.onload if self._swaps else None)

    def _enter(self, state: State, move: Callable[[], int] | None) -> None:
        """Args:
        move: does the transition's work and says how many bytes changed hands.
        """
        assert NEXT[self.state] is state, (self.state, state)
        started = time.monotonic()
        moved = move() if move is not None else 0
        self.state = state
        if move is not None and self._swaps:
            seconds = time.monotonic() - started
            self.transitions |= {f"{state.value}_seconds": seconds, f"{state.value}_bytes": float(moved)}
            self._progress.say(f"colocate: {state.name}, {moved / 2**20:.0f} MiB in {seconds:.2f} s")
        if self.on_state is not None:
            self.on_state(state)

    def _release(self) -> int:
        before = self._vllm_bytes()
        self._loop.run(self._pool.release(), seconds=self._limit_seconds, waiting_for="vLLM to give its memory back")
        self._vllm_is_up = False
        return before - self._vllm_bytes()

    def _start_taking_back(self, on_progress: OnProgress) -> None:
        if not self._vllm_is_up and self._starting is None:
            self._starting = self._loop.start(self._pool.take_back(on_progress))

    def _take_back(self) -> None:
        with self._progress.phase("vLLM takes its memory again") as update:
            self._start_taking_back(update)
            if self._starting is not None:
                self._loop.wait(self._starting, seconds=self._start_seconds, waiting_for="vLLM to take its memory")
        self._starting, self._vllm_is_up = None, True

    def _vllm_bytes(self) -> int:
        """Memory in use: of vLLM's processes on a CPU, of the GPU that rank 0 shares with it on CUDA."""
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            return total - free
        return self._pool.resident_bytes
