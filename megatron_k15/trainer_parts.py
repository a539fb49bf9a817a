"""Builds what one trainer rank is made of: model, trainer, publisher."""

from contextlib import ExitStack
from pathlib import Path

import torch

from megatron_k15.config import Config
from megatron_k15.engines.update_control import UpdateControl
from megatron_k15.errors import ConfigError
from megatron_k15.loaded_policy import load_policy
from megatron_k15.offload.stores import FileStore, PinnedStore
from megatron_k15.offload.swap import NewStore, Swap
from megatron_k15.parallel.context import ParallelContext
from megatron_k15.parallel.platform import resolve_dtype
from megatron_k15.training.policy_trainer import PolicyTrainer
from megatron_k15.training_worker import TrainingWorker
from megatron_k15.transfer.publisher import Publisher
from megatron_k15.transfer.vllm_sender import VllmSender

CHECKPOINTS = "checkpoints"
"""Resume checkpoints' folder inside the run's."""


def engine_dtype(config: Config) -> str:
    """`fp32` or `bf16`: what vLLM runs in, and so what is published."""
    dtype = config.model.dtype if config.engine.dtype == "auto" else config.engine.dtype
    return resolve_dtype(dtype)


def transfer_backend(config: Config) -> str:
    """`shared_memory`, `ipc` or `nccl`: `auto` resolved on this machine.

    Raises:
        ConfigError: ipc or nccl without a GPU.
    """
    on_gpu, backend = torch.cuda.is_available(), config.transfer.backend
    if backend == "auto":
        return "ipc" if on_gpu and config.colocate.mode == "off" else "shared_memory"
    if backend != "shared_memory" and not on_gpu:
        raise ConfigError(f"transfer.backend={backend} needs GPUs; on CPUs use transfer.backend=shared_memory")
    return backend


def build_worker(
    config: Config, context: ParallelContext, stack: ExitStack, control: UpdateControl | None = None
) -> TrainingWorker:
    """Collective. What must be cleaned up is registered on `stack`.

    Args:
        control: of vLLM's weight updates, on rank 0; for ipc and nccl.
    """
    model_dir, architecture, dtype, chunks = load_policy(config.model, context, recompute=config.train.recompute)
    trainer = PolicyTrainer(
        config.train,
        context,
        architecture,
        chunks,
        dtype=dtype,
        num_iterations=config.num_iterations,
        temperature=config.rollout.temperature,
    )
    publisher: Publisher | VllmSender
    match transfer_backend(config):
        case "ipc" | "nccl" as backend:
            publisher = VllmSender(
                chunks,
                architecture,
                context,
                dtype=engine_dtype(config),
                backend=backend,
                control=control,
                timeout_seconds=config.transfer.timeout_seconds,
            )
        case _:
            publisher = Publisher(chunks, architecture, context, dtype=engine_dtype(config))
    stack.enter_context(publisher)
    swap = Swap(trainer.tensors, _new_store(config, context))
    stack.callback(swap.close)
    return TrainingWorker(
        context=context,
        architecture=architecture,
        trainer=trainer,
        publisher=publisher,
        swap=swap,
        checkpoint=config.checkpoint,
        checkpoint_dir=Path(config.run_dir) / CHECKPOINTS,
        model_dir=model_dir,
    )


def _new_store(config: Config, context: ParallelContext) -> NewStore:
    if context.platform.name == "cuda":
        return PinnedStore
    directory = Path(config.colocate.offload_dir or Path(config.run_dir) / "offload")
    return lambda sizes: FileStore(sizes, directory)
