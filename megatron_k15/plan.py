"""What a config will do, worked out without starting anything: `--dry-run`."""

from megatron_k15.config import Config, to_yaml
from megatron_k15.errors import ConfigError
from megatron_k15.models.architecture import Architecture

BYTES = {"fp32": 4, "bf16": 2}
MIB = 2**20


def describe_plan(
    config: Config, architecture: Architecture, *, world_size: int, dtype: str, num_parameters: int
) -> str:
    """The resolved config, then ranks, groups, batch shapes, vLLM instances and bytes per rank.

    Args:
        dtype: `fp32` or `bf16`, as resolved on this machine.

    Raises:
        ConfigError: the degrees do not divide the world size.
    """
    parallel = config.parallel
    tensor, pipeline = parallel.tensor_parallel_size, parallel.pipeline_parallel_size
    if world_size % (tensor * pipeline):
        raise ConfigError(
            f"tensor_parallel_size {tensor} x pipeline_parallel_size {pipeline} must divide the number of ranks, "
            f"{world_size}: start torchrun with a multiple of {tensor * pipeline} processes"
        )
    data = world_size // (tensor * pipeline)
    rollout, engine = config.rollout, config.engine
    sequences = rollout.prompts_per_iteration * rollout.responses_per_prompt
    engine_dtype = dtype if engine.dtype == "auto" else engine.dtype
    per_step = sequences // config.train.steps_per_iteration
    chunks = parallel.virtual_pipeline_parallel_size
    lines = [
        to_yaml(config).rstrip(),
        "",
        "plan",
        f"  model       {architecture.family}, {num_parameters / 1e6:.1f} M parameters, {architecture.num_layers} "
        f"layers, hidden {architecture.hidden_size}, vocabulary {architecture.vocab_size}, {dtype}",
        f"  ranks       {world_size} = tensor {tensor} x pipeline {pipeline} x data {data}"
        + (f", {chunks} chunks per rank" if chunks else "")
        + (", sequence parallel" if parallel.sequence_parallel else ""),
        *_group_lines(tensor, pipeline, data),
        f"  iteration   {rollout.prompts_per_iteration} prompts x {rollout.responses_per_prompt} responses = "
        f"{sequences} sequences of at most {engine.max_model_len} tokens, {rollout.max_response_tokens} of them the "
        "response",
        f"  training    {config.train.steps_per_iteration} optimizer step(s) of {per_step} sequences, about "
        f"{-(-per_step // data)} per data-parallel rank, packed into micro-batches [1, <= "
        f"{config.train.max_tokens_per_micro_batch} tokens]",
        f"  vLLM        {engine.num_engines} instance(s) x tensor {engine.tensor_parallel_size}, {engine_dtype}, "
        f"{rollout.max_concurrent_requests} requests in flight each, on a private Unix socket",
        f"  bytes/rank  {_bytes_per_rank(config, num_parameters, data, dtype)}",
        f"  transfer    {num_parameters * BYTES[engine_dtype] / MIB:.0f} MiB per weight version",
    ]
    return "\n".join(lines)


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


def _bytes_per_rank(config: Config, num_parameters: int, data: int, dtype: str) -> str:
    """Weights, fp32 gradients and Adam state; activations depend on the micro-batch and come on top."""
    share = num_parameters / (config.parallel.tensor_parallel_size * config.parallel.pipeline_parallel_size)
    moments = 8 if config.train.optimizer == "adam" else 0
    master = 4 if dtype == "bf16" else 0
    optimizer = share * (moments + master) / (data if config.parallel.use_distributed_optimizer else 1)
    weights, gradients = share * BYTES[dtype], share * 4
    total = (weights + gradients + optimizer) / MIB
    return (
        f"{total:.0f} MiB = weights {weights / MIB:.0f} + gradients {gradients / MIB:.0f} + optimizer "
        f"{optimizer / MIB:.0f}, activations on top"
    )
