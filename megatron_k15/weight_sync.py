"""A weight version from the trainer into every vLLM instance, and the proof that it arrived.

write: trainers write and checksum, and compute the probe; load: vLLM loads and checksums, and is probed. Checksums
cover the bytes; the probe, logprobs of the same tokens from both sides, covers what loading made of them. Between the
two the trainer may give its memory away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megatron_k15.config import TransferConfig
from megatron_k15.engines.pool import EnginePool
from megatron_k15.event_loop import EventLoopThread
from megatron_k15.metrics import Progress
from megatron_k15.trainer_group import TrainerGroup
from megatron_k15.transfer.probe import Gap, check_gap, logprob_gap
from megatron_k15.types import Prompt, TrainingSequence


@dataclass(frozen=True, kw_only=True)
class Written:
    """A weight version that the trainer has handed over."""

    version: int
    info: dict[str, Any]
    """What vLLM's receiver is told; empty where vLLM has the weights already."""
    probe: Sequence[TrainingSequence]
    logprobs: list[list[float]]
    """The trainer's, of the probe's tokens in the loss."""


class WeightSync:
    """After `load` vLLM samples from exactly the trainer's weights."""

    def __init__(
        self,
        trainers: TrainerGroup,
        pool: EnginePool,
        loop: EventLoopThread,
        progress: Progress,
        config: TransferConfig,
        *,
        dtype: str,
    ) -> None:
        self._trainers = trainers
        self._pool = pool
        self._loop = loop
        self._progress = progress
        self._config = config
        self._dtype = dtype

    def publish(self, *, version: int, probe: Sequence[TrainingSequence]) -> Gap:
        """`write`, then `load`."""
        return self.load(self.write(version=version, probe=probe))

    def write(self, *, version: int, probe: Sequence[TrainingSequence]) -> Written:
        """The trainer's part; ipc and nccl send and load at once."""
        with self._progress.phase(f"weights, version {version}: written by the trainer"):
            # From here on the segment changes: a vLLM that restarts meanwhile waits for the new version.
            self._loop.run(
                self._pool.announce_update(),
                seconds=self._config.timeout_seconds,
                waiting_for=f"vLLM to stop reading the weights before version {version}",
            )
            info = self._trainers.publish(version)
            probe = probe[: self._config.num_probe_sequences]
            return Written(version=version, info=info, probe=probe, logprobs=self._trainers.logprobs(probe))

    def load(self, written: Written) -> Gap:
        """vLLM's part, and the comparison of both sides' logprobs.

        Raises:
            TransferError: weights arrived damaged, or the logprobs part by more than the limit.
        """
        version = written.version
        with self._progress.phase(f"weights, version {version}: loaded by vLLM"):
            if written.info:
                self._loop.run(
                    self._pool.update_weights(written.info, version),
                    seconds=self._config.timeout_seconds,
                    waiting_for=f"vLLM to load weight version {version}",
                )
            theirs = self._loop.run(
                self._pool.prompt_logprobs([sequence.token_ids for sequence in written.probe]),
                seconds=self._config.timeout_seconds,
                waiting_for="vLLM's logprobs of the probe batch",
            )
        masked = [
            [value for value, in_loss in zip(values, sequence.loss_mask, strict=True) if in_loss]
            for values, sequence in zip(theirs, written.probe, strict=True)
        ]
        gap = logprob_gap(written.logprobs, masked)
        check_gap(gap, self._config.logprob_gap_limit, self._dtype, version=version)
        return gap


def probe_of_prompts(prompts: Sequence[Prompt]) -> list[TrainingSequence]:
    """Probe sequences from before the first rollout: the prompts themselves, every token after the first."""
    return [
        TrainingSequence(
            token_ids=prompt.token_ids,
            loss_mask=(False, *(True,) * (len(prompt.token_ids) - 1)),
            behaviour_logprobs=(0.0,) * len(prompt.token_ids),
        )
        for prompt in prompts
    ]
