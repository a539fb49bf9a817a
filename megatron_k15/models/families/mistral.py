"""Mistral 7B and relatives: Llama's tensors. Sliding windows are refused when the config is read."""

from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import WeightRule, dense_decoder


def weight_rules(architecture: Architecture) -> tuple[WeightRule, ...]:
    return dense_decoder(architecture)
