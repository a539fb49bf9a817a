"""Llama 2 and 3, SmolLM2: no biases, no query-key norm."""

from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import WeightRule, dense_decoder


def weight_rules(architecture: Architecture) -> tuple[WeightRule, ...]:
    return dense_decoder(architecture)
