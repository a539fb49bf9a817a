"""A weight version from the trainer into every vLLM instance, and the proof that it arrived.

TRAIN → (trainers write and checksum) → (vLLM loads and checksums) → probe → ROLLOUT. Checksums cover the bytes; the
probe, logprobs of the same tokens from both sides, covers what loading made of them.
"""

from collections.abc import Sequence

from megatron_k15.config import TransferConfig
from megatron_k15.engines.pool import EnginePool
from megatron_k15.event_loop import EventLoopThread
from megatron_k15.metrics import Progress
from megatron_k15.trainer_group import TrainerGroup
from megatron_k15.transfer.probe import Gap, check_gap, logprob_gap
from megatron_k15.types import Prompt, TrainingSequence


class WeightSync:
    """`publish` returns only when vLLM samples from exactly the trainer's weights."""

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
        """Publish `version` and compare both sides' logprobs on the first sequences of `probe`.

        Raises:
            TransferError: weights arrived damaged, or the logprobs part by more than the limit.
        """
        with self._progress.phase(f"weights, version {version}: trainer to vLLM"):
            # From here on the segment changes: a vLLM that restarts meanwhile waits for the new version.
            self._loop.run(
                self._pool.announce_update(),
                seconds=self._config.timeout_seconds,
                waiting_for=f"vLLM to stop reading the weights before version {version}",
            )
            update_info = self._trainers.publish(version)
            # ipc and nccl send and load at once, inside `publish`: nothing is left to load.
            if update_info:
                self._loop.run(
                    self._pool.update_weights(update_info, version),
                    seconds=self._config.timeout_seconds,
                    waiting_for=f"vLLM to load weight version {version}",
                )
            return self._probe(probe[: self._config.num_probe_sequences], version)

    def _probe(self, probe: Sequence[TrainingSequence], version: int) -> Gap:
        ours = self._trainers.logprobs(probe)
        theirs = self._loop.run(
            self._pool.prompt_logprobs([sequence.token_ids for sequence in probe]),
            seconds=self._config.timeout_seconds,
            waiting_for="vLLM's logprobs of the probe batch",
        )
        masked = [
            [value for value, in_loss in zip(values, sequence.loss_mask, strict=True) if in_loss]
            for values, sequence in zip(theirs, probe, strict=True)
        ]
        gap = logprob_gap(ours, masked)
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
