"""The loop of every supervised stage, alike on every rank.

    stream.step → trainer.train_step (loss, gradients, schedule) → metrics → checkpoint … → Hugging Face directory

A step's number is its whole position in the data. A run that was stopped goes on from its newest good checkpoint, on
any layout of ranks, with the very steps that an undisturbed one would have taken.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch.distributed as dist

from megatron_k15.checkpoint.export import export_hf
from megatron_k15.checkpoint.resume import find_newest, load_resume, save_resume
from megatron_k15.config import StageConfig
from megatron_k15.errors import ConfigError
from megatron_k15.models.slices import weight_slices
from megatron_k15.planned_step import Stream
from megatron_k15.stage_parts import Stage
from megatron_k15.training.trainer import Trainer

CHECKPOINTS = "checkpoints"
"""Resume checkpoints' folder inside the run's."""


class OfflineTraining:
    """Trains from step `self.step` on."""

    def __init__(
        self,
        config: StageConfig,
        stage: Stage,
        trainer: Trainer,
        stream: Stream,
        *,
        config_changes: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """
        Args:
            config_changes: entries of the exported config.json that differ from the start's.
        """
        self._config = config
        self._stage = stage
        self._trainer = trainer
        self._stream = stream
        self._checkpoints = stage.run_dir / CHECKPOINTS
        self._config_changes = config_changes
        self.step = 0

    def run(self) -> Path:
        """Resume, train, save, export; returns the Hugging Face directory."""
        self._resume()
        while self.step < self._stream.num_steps:
            self._train_step()
            every = self._config.checkpoint.every_iterations
            if every and (self.step % every == 0 or self.step == self._stream.num_steps):
                self._save()
        return self._export()

    def _train_step(self) -> None:
        started = time.monotonic()
        planned = self._stream.step(self.step)
        if planned.rope_theta is not None:
            self._trainer.set_rope_theta(planned.rope_theta)
        found = self._trainer.train_step(planned.batches, learning_rate=planned.learning_rate)
        seconds = time.monotonic() - started
        values = {f"train/{name}": value for name, value in found.items()}
        values |= {"train/learning_rate": planned.learning_rate, **planned.shown, "time/step_seconds": seconds}
        if "data/num_tokens" in planned.shown:
            values["time/tokens_per_second"] = planned.shown["data/num_tokens"] / seconds
        self.step += 1
        if self._stage.metrics is not None:
            self._stage.metrics.write(self.step, values)

    def _save(self) -> None:
        state = {"step": self.step, "identity": self._stream.identity(self.step)}
        with self._stage.progress.phase(f"checkpoint after step {self.step}"):
            save_resume(
                self._checkpoints,
                self.step,
                self._trainer.sharded_state_dict(),
                state,
                context=self._stage.context,
                num_kept=self._config.checkpoint.num_kept,
            )

    def _resume(self) -> None:
        newest = self._find_newest()
        if newest is None:
            self._stage.progress.say(f"training for {self._stream.num_steps} steps")
            return
        with self._stage.progress.phase(f"resuming from {newest}"):
            wanted = self._trainer.sharded_state_dict(is_loading=True)
            loaded, state = load_resume(newest, wanted, context=self._stage.context)
            self._check_identity(state, newest)
            self._trainer.load_state_dict(loaded)
        self.step = state["step"]
        self._stage.progress.say(
            f"continuing after step {self.step} of {self._stream.num_steps}"
            if self.step < self._stream.num_steps
            else f"nothing is left to train: this run has its {self._stream.num_steps} steps"
        )

    def _find_newest(self) -> Path | None:
        """Collective: rank 0's answer, so that no two ranks load different ones."""
        found: list[Path | None] = [None]
        if self._config.checkpoint.resume and self._stage.context.rank == 0:
            found = [find_newest(self._checkpoints)]
        dist.broadcast_object_list(found, src=0)
        return found[0]

    def _check_identity(self, state: Mapping[str, Any], checkpoint: Path) -> None:
        step = min(state["step"], self._stream.num_steps)
        # As it comes back from the disk: JSON has no tuples.
        now = json.loads(json.dumps(self._stream.identity(step)))
        parted = [name for name, value in state["identity"].items() if now.get(name) != value]
        if parted or step < state["step"]:
            raise ConfigError(
                f"{checkpoint} was made with other {' and '.join(parted or ['phases'])}: a run goes on only with what "
                "it began with. Restore that, or start anew with checkpoint.resume=false or another run_dir"
            )

    def _export(self) -> Path:
        directory = Path(self._config.checkpoint.export_dir or self._stage.run_dir / "hf")
        stage, policy = self._stage, self._trainer.policy
        architecture = policy[0].architecture
        with stage.progress.phase(f"writing the Hugging Face checkpoint to {directory}"):
            export_hf(
                directory,
                weight_slices(policy, architecture, stage.context),
                architecture=architecture,
                source_dir=stage.model_dir,
                context=stage.context,
                config_changes=self._config_changes,
            )
        stage.progress.say(f"done: {directory} loads in transformers and vLLM")
        return directory
