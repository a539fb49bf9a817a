"""One trainer rank: everything a call of the master touches here."""

from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_k15.checkpoint.export import export_hf
from megatron_k15.checkpoint.resume import load_resume, save_resume
from megatron_k15.config import CheckpointConfig
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.slices import weight_slices
from megatron_k15.offload.swap import Swap
from megatron_k15.parallel.context import ParallelContext
from megatron_k15.training.policy_trainer import PolicyTrainer
from megatron_k15.transfer.publisher import Publisher
from megatron_k15.transfer.vllm_sender import VllmSender
from megatron_k15.types import TrainingSequence


class TrainingWorker:
    """The methods that `TrainerGroup` calls, alike on every rank; each is collective."""

    def __init__(
        self,
        *,
        context: ParallelContext,
        architecture: Architecture,
        trainer: PolicyTrainer,
        publisher: Publisher | VllmSender,
        swap: Swap,
        checkpoint: CheckpointConfig,
        checkpoint_dir: Path,
        model_dir: Path,
    ) -> None:
        self._context = context
        self._architecture = architecture
        self._trainer = trainer
        self._publisher = publisher
        self._swap = swap
        self._checkpoint = checkpoint
        self._checkpoint_dir = checkpoint_dir
        self._model_dir = model_dir

    def start_iteration(self, iteration: int) -> None:
        self._trainer.start_iteration(iteration)

    def update(self, steps: list[list[TrainingSequence]]) -> dict[str, float]:
        return self._trainer.update(steps)

    def logprobs(self, sequences: list[TrainingSequence]) -> list[list[float]]:
        return self._trainer.logprobs(sequences)

    def publish(self, version: int) -> dict[str, Any]:
        return self._publisher.publish(version)

    def offload(self) -> int:
        """Give away the memory of parameters, gradients and optimizer state; its bytes over all ranks."""
        return self._total(self._swap.offload())

    def onload(self) -> int:
        """Take it back, bit for bit; its bytes over all ranks."""
        return self._total(self._swap.onload())

    def _total(self, num_bytes: int) -> int:
        every: list[int] = [0] * self._context.world_size
        dist.all_gather_object(every, num_bytes)
        return sum(every)

    def save(self, iteration: int, master_state: dict[str, Any], attachments: dict[str, Path]) -> None:
        """Write a resume checkpoint, the master's files in it."""
        save_resume(
            self._checkpoint_dir,
            iteration,
            self._trainer.sharded_state_dict(),
            master_state,
            context=self._context,
            num_kept=self._checkpoint.num_kept,
            attachments=attachments,
        )

    def load(self, path: str) -> dict[str, Any]:
        """Take up a resume checkpoint; returns the master's part of it."""
        wanted = self._trainer.sharded_state_dict(is_loading=True)
        state, master_state = load_resume(Path(path), wanted, context=self._context)
        self._trainer.load_state_dict(state)
        return master_state

    def export(self, directory: str) -> None:
        """Write the policy as a Hugging Face directory."""
        policy = self._trainer.policy
        export_hf(
            Path(directory),
            weight_slices(policy, self._architecture, self._context),
            architecture=self._architecture,
            source_dir=self._model_dir,
            context=self._context,
        )
