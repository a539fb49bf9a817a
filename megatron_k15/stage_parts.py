"""What a supervised stage has on each rank before it trains: process groups, model directory, data, metrics."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from megatron_k15.config import DataConfig, PhaseConfig, StageConfig, to_yaml
from megatron_k15.data.preparation import Encode, prepare
from megatron_k15.data.token_file import TokenFile
from megatron_k15.errors import ConfigError
from megatron_k15.loaded_policy import (
    LoadedPolicy,
    fresh_policy,
    load_policy,
    load_reward_model,
    shared_model_dir,
)
from megatron_k15.metrics import MetricsWriter, Progress
from megatron_k15.models.architecture import Architecture
from megatron_k15.parallel.context import ParallelContext, initialize
from megatron_k15.training.objective import Objective
from megatron_k15.training.trainer import Trainer

PREPARED = "data"
"""The token file's folder inside the run's."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    config: StageConfig
    context: ParallelContext
    run_dir: Path
    model_dir: Path
    architecture: Architecture
    progress: Progress
    """Silent on all ranks but the first."""
    metrics: MetricsWriter | None
    """On the first rank alone."""

    def prepare(self, data: DataConfig, make_encode: Callable[[], Encode], *, what: str) -> TokenFile:
        """Collective. Rank 0 prepares, the others wait for it no longer than `wait_timeout_seconds`."""
        directory = self.run_dir / PREPARED
        if self.context.rank == 0:
            with self.progress.phase(f"preparing the {what}s") as update:
                prepare(directory, data, make_encode(), what=what, model_dir=self.model_dir, on_progress=update)
        dist.barrier()
        tokens = TokenFile.open(directory)
        skipped = tokens.facts["num_skipped"]
        self.progress.say(
            f"{tokens.num_sequences:,} sequences, {int(tokens.bounds[-1]):,} tokens"
            + (f"; {skipped} bad rows skipped" if skipped else "")
        )
        return tokens

    def trainer(self, objective: Objective, *, scores: bool = False) -> Trainer:
        """Collective: the model with its weights, and its optimizer.

        Args:
            scores: a reward model, with a new head.
        """
        config, train = self.config, self.config.train
        with self.progress.phase(f"loading {config.model.path}"):
            if scores:
                loaded = load_reward_model(config.model, self.context, recompute=train.recompute, seed=config.seed)
            else:
                loaded = load_policy(config.model, self.context, recompute=train.recompute)
        return self._trainer_of(loaded, objective)

    def fresh_trainer(self, objective: Objective, *, std: float) -> Trainer:
        """Collective: the same with random weights."""
        config = self.config
        with self.progress.phase(f"making a model as {config.model.path} describes it"):
            loaded = fresh_policy(
                config.model, self.context, recompute=config.train.recompute, seed=config.seed, std=std
            )
        return self._trainer_of(loaded, objective)

    def _trainer_of(self, loaded: LoadedPolicy, objective: Objective) -> Trainer:
        return Trainer(self.config.train, objective, self.context, loaded.chunks, dtype=loaded.dtype)


@contextmanager
def started(config: StageConfig, phases: tuple[PhaseConfig, ...] = ()) -> Iterator[Stage]:
    """Join the other ranks; leave them at the end.

    Args:
        phases: whose lengths the model must take.

    Raises:
        ConfigError: a phase's sequences are longer than the model takes.
        ModelError: a bad model directory.
    """
    limit = config.wait_timeout_seconds
    with initialize(config.parallel, seed=config.seed, timeout_seconds=limit) as context, ExitStack() as stack:
        model_dir = shared_model_dir(config.model, context)
        architecture = Architecture.from_hf(model_dir)
        _check_lengths(phases, architecture)
        run_dir = Path(config.run_dir)
        progress, metrics = Progress(), None
        if context.rank == 0:
            metrics = stack.enter_context(
                MetricsWriter(
                    run_dir,
                    config.metrics,
                    resolved_config_yaml=to_yaml(config),
                    say=progress.say,
                    describe=step_line,
                )
            )
        else:
            progress = Progress(stack.enter_context(Path(os.devnull).open("w")))
        yield Stage(
            config=config,
            context=context,
            run_dir=run_dir,
            model_dir=model_dir,
            architecture=architecture,
            progress=progress,
            metrics=metrics,
        )


def _check_lengths(phases: tuple[PhaseConfig, ...], architecture: Architecture) -> None:
    for number, phase in enumerate(phases):
        if phase.sequence_tokens > architecture.max_positions:
            raise ConfigError(
                f"phases[{number}]: sequence_tokens ({phase.sequence_tokens}) must not exceed the model's longest "
                f"sequence, {architecture.max_positions}"
            )


def step_line(step: int, values: Mapping[str, float]) -> str:
    """The line per step on the terminal."""
    pieces = [f"step {step}"]
    pieces += [f"{label} {format(values[name], spec)}" for label, name, spec in _SHOWN if name in values]
    return " | ".join(pieces)


_SHOWN = (
    ("phase", "data/phase", ".0f"),
    ("epoch", "data/epoch", ".0f"),
    ("loss", "train/loss", ".4f"),
    ("accuracy", "train/accuracy", ".3f"),
    ("gradient norm", "train/grad_norm", ".3f"),
    ("rate", "train/learning_rate", ".2e"),
    ("tokens/s", "time/tokens_per_second", ".0f"),
)
"""Label, key, format."""
