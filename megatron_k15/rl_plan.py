"""The plan of an RL run (`--dry-run`)."""

from megatron_k15.config import Config, to_yaml
from megatron_k15.models.architecture import Architecture
from megatron_k15.plan import BYTES, MIB, bytes_per_rank, data_parallel_size, model_line, rank_lines


def describe_plan(
    config: Config, architecture: Architecture, *, world_size: int, dtype: str, num_parameters: int
) -> str:
    """The resolved config, then ranks, groups, batch shapes, vLLM instances and bytes per rank.

    Args:
        dtype: `fp32` or `bf16`, as resolved on this machine.

    Raises:
        ConfigError: the degrees do not divide the world size.
    """
    data = data_parallel_size(config.parallel, world_size)
    rollout, engine = config.rollout, config.engine
    sequences = rollout.prompts_per_iteration * rollout.responses_per_prompt
    engine_dtype = dtype if engine.dtype == "auto" else engine.dtype
    per_step = sequences // config.train.steps_per_iteration
    lines = [
        to_yaml(config).rstrip(),
        "",
        "plan",
        model_line(architecture, dtype=dtype, num_parameters=num_parameters),
        *rank_lines(config.parallel, world_size),
        f"  iteration   {rollout.prompts_per_iteration} prompts x {rollout.responses_per_prompt} responses = "
        f"{sequences} sequences of at most {engine.max_model_len} tokens, {rollout.max_response_tokens} of them the "
        "response",
        f"  training    {config.train.steps_per_iteration} optimizer step(s) of {per_step} sequences, about "
        f"{-(-per_step // data)} per data-parallel rank, packed into micro-batches [1, <= "
        f"{config.train.max_tokens_per_micro_batch} tokens]",
        f"  vLLM        {engine.num_engines} instance(s) x tensor {engine.tensor_parallel_size}, {engine_dtype}, "
        f"{rollout.max_concurrent_requests} requests in flight each, on a private Unix socket",
        "  bytes/rank  "
        + bytes_per_rank(
            config.parallel,
            optimizer=config.train.optimizer,
            num_parameters=num_parameters,
            world_size=world_size,
            dtype=dtype,
        ),
        f"  transfer    {num_parameters * BYTES[engine_dtype] / MIB:.0f} MiB per weight version",
    ]
    return "\n".join(lines)
