"""Hugging Face weights → this rank's parameters."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import EMBEDDING, OUTPUT, weight_rules
from megatron_k15.models.policy import PolicyModel
from megatron_k15.models.slices import named_parameters, tied_head, weight_slices
from megatron_k15.parallel.context import ParallelContext


class Tensors(Protocol):
    """`HfWeights`, `FreshWeights`."""

    def tensor(self, hf_name: str) -> Tensor: ...


@torch.no_grad()
def load_hf_weights(
    chunks: Sequence[PolicyModel], weights: Tensors, architecture: Architecture, context: ParallelContext
) -> None:
    """Copy in each slice this rank holds, cast to the parameter's dtype; vocabulary padding becomes zero."""
    for name, parameter in named_parameters(chunks).items():
        if name in (EMBEDDING, OUTPUT):
            parameter.zero_()
    for rule, local in weight_slices(chunks, architecture, context):
        start, length = rule.hf_region(context.tensor_rank, context.tensor_size)
        source = weights.tensor(rule.hf_name).narrow(rule.shard_dim or 0, start, length)
        local.copy_(source.reshape(local.shape))
    head = tied_head(chunks, architecture)
    if head is not None:
        (rule,) = (rule for rule in weight_rules(architecture) if rule.mcore_name == EMBEDDING)
        start, length = rule.hf_region(context.tensor_rank, context.tensor_size)
        head[:length].copy_(weights.tensor(rule.hf_name).narrow(0, start, length))
