"""Qwen2 and Qwen2.5: Llama's tensors with biases on query, key and value."""

from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import WeightRule, dense_decoder


def weight_rules(architecture: Architecture) -> tuple[WeightRule, ...]:
    return dense_decoder(architecture)
