"""Which GPUs of rank 0's host each vLLM instance gets: all instances run there, next to that host's trainer ranks,
which hold GPUs 0, 1, … in order of their local rank."""

from megatron_k15.errors import ConfigError


def instance_gpus(
    index: int, tensor_parallel_size: int, *, backend: str, num_gpus: int, num_local_ranks: int
) -> tuple[int, ...]:
    """Local GPU numbers of instance `index`.

    ipc: those of the trainer ranks, from the first: memory is mapped only on one and the same GPU. Else from the last
    GPU downwards, so that GPUs without a trainer are taken first; with nccl rank 0's, GPU 0, is left out, because NCCL
    refuses two ranks on one GPU.

    Raises:
        ConfigError: there are not enough of them.
    """
    used = (index + 1) * tensor_parallel_size
    if backend == "ipc":
        first, available = index * tensor_parallel_size, min(num_gpus, num_local_ranks)
    else:
        first, available = num_gpus - used, num_gpus - (backend == "nccl")
    if used > available:
        raise ConfigError(
            f"transfer.backend={backend} gives vLLM at most {available} GPUs on a host with {num_gpus} GPUs and "
            f"{num_local_ranks} trainer rank(s); engine.num_engines x engine.tensor_parallel_size asks for {used} or "
            "more"
        )
    return tuple(range(first, first + tensor_parallel_size))
