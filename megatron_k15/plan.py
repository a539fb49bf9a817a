"""What a config will do, worked out without starting anything (`--dry-run`): what all programs have in common."""

from megatron_k15.config import ParallelConfig
from megatron_k15.errors import ConfigError
from megatron_k15.models.architecture import Architecture

BYTES = {"fp32": 4, "bf16": 2}
MIB = 2**20


def data_parallel_size(parallel: ParallelConfig, world_size: int) -> int:
    """
    Raises:
        ConfigError: the degrees do not divide the world size.
    """
    tensor, pipeline = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
    if world_size % (tensor * pipeline):
        raise ConfigError(
            f"tensor_parallel_size {tensor} x pipeline_parallel_size {pipeline} must divide the number of ranks, "
            f"{world_size}: start torchrun with a multiple of {tensor * pipeline} processes"
        )
    return world_size // (tensor * pipeline)


def model_line(architecture: Architecture, *, dtype: str, num_parameters: int) -> str:
    return (
        f"  model       {architecture.family}, {num_parameters / 1e6:.1f} M parameters, {architecture.num_layers} "
        f"layers, hidden {architecture.hidden_size}, vocabulary {architecture.vocab_size}, {dtype}"
    )


def rank_lines(parallel: ParallelConfig, world_size: int) -> list[str]:
    """How the ranks are split, and the groups."""
    tensor, pipeline = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
    data, chunks = data_parallel_size(parallel, world_size), parallel.virtual_pipeline_parallel_size
    return [
        f"  ranks       {world_size} = tensor {tensor} x pipeline {pipeline} x data {data}"
        + (f", {chunks} chunks per rank" if chunks else "")
        + (", sequence parallel" if parallel.sequence_parallel else ""),
        *_group_lines(tensor, pipeline, data),
    ]


def _group_lines(tensor: int, pipeline: int, data: int) -> list[str]:
    """Ranks of each kind of group, in megatron-core's order: tensor fastest, then data, then pipeline."""

    def rank(t: int, d: int, p: int) -> int:
        return t + tensor * (d + data * p)

    groups = {
        "tensor": [[rank(t, d, p) for t in range(tensor)] for p in range(pipeline) for d in range(data)],
        "data": [[rank(t, d, p) for d in range(data)] for p in range(pipeline) for t in range(tensor)],
        "pipeline": [[rank(t, d, p) for p in range(pipeline)] for d in range(data) for t in range(tensor)],
    }
    shown = {name: ranks for name, ranks in groups.items() if len(ranks[0]) > 1}
    return [
        f"  groups      {name}: {' '.join(map(str, ranks[:8]))}{' ...' if len(ranks) > 8 else ''}"
        for name, ranks in shown.items()
    ]


def bytes_per_rank(
    parallel: ParallelConfig, *, optimizer: str, num_parameters: int, world_size: int, dtype: str
) -> str:
    """Weights, fp32 gradients and Adam state; activations depend on the micro-batch and come on top."""
    share = num_parameters / (parallel.tensor_parallel_size * parallel.pipeline_parallel_size)
    moments = 8 if optimizer == "adam" else 0
    master = 4 if dtype == "bf16" else 0
    copies = data_parallel_size(parallel, world_size) if parallel.use_distributed_optimizer else 1
    state = share * (moments + master) / copies
    weights, gradients = share * BYTES[dtype], share * 4
    total = (weights + gradients + state) / MIB
    return (
        f"{total:.0f} MiB = weights {weights / MIB:.0f} + gradients {gradients / MIB:.0f} + optimizer "
        f"{state / MIB:.0f}, activations on top"
    )
