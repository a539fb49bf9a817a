"""Qwen3 dense: Llama's tensors with an RMS norm over each query and key head."""

from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import WeightRule, dense_decoder


def weight_rules(architecture: Architecture) -> tuple[WeightRule, ...]:
    return dense_decoder(architecture)
