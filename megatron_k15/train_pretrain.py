"""Pretraining on indexed data sets, in phases (App. B.4): the entry point.

    torchrun --nproc-per-node N -m megatron_k15.train_pretrain --config FILE [key=value …] [--dry-run]

Each phase has its data mix, its sequence length, its learning rates and its rotary base. Text only.
"""

import json
import sys
from pathlib import Path
from typing import Any

from megatron_k15.config import PretrainConfig, PretrainPhaseConfig
from megatron_k15.program import run_program, world_size


def main(arguments: list[str] | None = None) -> int:
    return run_program(
        "train_pretrain",
        "Pretraining on megatron-core.",
        PretrainConfig,
        plan=_plan,
        run=run,
        interrupted="the same command goes on from the newest checkpoint",
        arguments=arguments,
    )


def _plan(config: PretrainConfig) -> str:
    from megatron_k15.stage_plan import describe_stage

    return describe_stage(config, [_phase_line(phase) for phase in config.phases], world_size=world_size())


def _phase_line(phase: PretrainPhaseConfig) -> str:
    tokens = phase.num_steps * phase.sequences_per_step * phase.sequence_tokens
    full = sum(mix.weight for mix in phase.data if mix.attention == "full") / sum(mix.weight for mix in phase.data)
    end = phase.learning_rate if phase.decay == "constant" else phase.min_learning_rate
    return (
        f"{phase.name}: {phase.num_steps} steps of {phase.sequences_per_step} x {phase.sequence_tokens} tokens = "
        f"{tokens:,}; {len(phase.data)} data set(s), {full:.0%} with full attention; rate {phase.learning_rate:g} to "
        f"{end:g}" + (f"; rotary base {phase.rope_theta:g}" if phase.rope_theta else "")
    )


def run(config: PretrainConfig) -> None:
    """One rank's part of a run, from start to end."""
    from megatron_k15.errors import DataError
    from megatron_k15.models.tokenizer import load_tokenizer
    from megatron_k15.offline import OfflineTraining
    from megatron_k15.pretrain_stream import PretrainStream
    from megatron_k15.stage_parts import started
    from megatron_k15.training.cross_entropy import CrossEntropy

    with started(config) as stage:
        end = load_tokenizer(stage.model_dir).eos_token_id
        if end is None:
            raise DataError("documents are told apart by the end-of-sequence token; the model's tokenizer has none")
        stream = PretrainStream(stage, config, end_of_document=end)
        objective = CrossEntropy(fused=config.train.kernels == "fused")
        if config.from_scratch:
            trainer = stage.fresh_trainer(objective, std=config.initializer_std)
        else:
            trainer = stage.trainer(objective)
        changes = _config_changes(stage.model_dir, config, stream.rope_theta(len(config.phases) - 1))
        OfflineTraining(config, stage, trainer, stream, config_changes=changes).run()


def _config_changes(model_dir: Path, config: PretrainConfig, rope_theta: float | None) -> dict[str, Any]:
    """Length and rotary base of the result, in the form that the start's config.json has (transformers 4 or 5)."""
    start = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    longest = max(phase.sequence_tokens for phase in config.phases)
    changes: dict[str, Any] = {}
    if longest > start.get("max_position_embeddings", 2048):
        changes["max_position_embeddings"] = longest
    if rope_theta is not None and isinstance(start.get("rope_parameters"), dict):
        changes["rope_parameters"] = {**start["rope_parameters"], "rope_theta": rope_theta}
    elif rope_theta is not None:
        changes["rope_theta"] = rope_theta
    return changes


if __name__ == "__main__":
    sys.exit(main())
