"""The plan of a supervised stage (`--dry-run`)."""

from collections.abc import Sequence

from megatron_k15.config import PackedPhaseConfig, PackedStageConfig, StageConfig, to_yaml
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import num_parameters
from megatron_k15.models.package_model import resolve_model
from megatron_k15.parallel.platform import resolve_dtype
from megatron_k15.plan import bytes_per_rank, data_parallel_size, model_line, rank_lines


def describe_stage(config: StageConfig, phases: Sequence[str], *, world_size: int) -> str:
    """The resolved config, then model, ranks, phases and bytes per rank.

    Args:
        phases: a line each.

    Raises:
        ConfigError: the degrees do not divide the world size.
        ModelError: a bad model directory.
    """
    architecture = Architecture.from_hf(resolve_model(config.model.path))
    dtype, count = resolve_dtype(config.model.dtype), num_parameters(architecture)
    lines = [
        to_yaml(config).rstrip(),
        "",
        "plan",
        model_line(architecture, dtype=dtype, num_parameters=count),
        *rank_lines(config.parallel, world_size),
        *(f"  phase {number}     {line}" for number, line in enumerate(phases)),
        "  bytes/rank  "
        + bytes_per_rank(
            config.parallel,
            optimizer=config.train.optimizer,
            num_parameters=count,
            world_size=world_size,
            dtype=dtype,
        ),
    ]
    return "\n".join(lines)


def describe_packed_stage(config: PackedStageConfig, *, world_size: int) -> str:
    """`describe_stage` of a stage that packs whole examples."""
    data = data_parallel_size(config.parallel, world_size)
    return describe_stage(config, [_packed_phase(phase, data) for phase in config.phases], world_size=world_size)


def _packed_phase(phase: PackedPhaseConfig, data: int) -> str:
    end = phase.learning_rate if phase.decay == "constant" else phase.min_learning_rate
    return (
        f"{phase.num_epochs} epoch(s), {phase.packs_per_step} packs of {phase.sequence_tokens} tokens per step, "
        f"{-(-phase.packs_per_step // data)} per data-parallel rank; rate {phase.learning_rate:g} to {end:g}"
        + (f" after {phase.warmup_steps} steps of warm-up" if phase.warmup_steps else "")
    )
