"""Random weights for pretraining from nothing: the same on every layout, as each tensor is drawn from its own seed."""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import weight_rules

_INTO_RESIDUAL = (".o_proj.weight", ".down_proj.weight")


@dataclass(frozen=True, kw_only=True)
class FreshWeights:
    """Normal matrices, norms of 1, biases of 0. Matrices that write into the residual stream are smaller by
    sqrt(2 * layers), so that it does not grow with the depth."""

    architecture: Architecture
    seed: int
    std: float

    def tensor(self, hf_name: str) -> Tensor:
        """fp32, of the whole tensor by its Hugging Face name."""
        (shape,) = (rule.hf_shape for rule in weight_rules(self.architecture) if rule.hf_name == hf_name)
        if len(shape) == 1:
            return torch.zeros(shape) if hf_name.endswith(".bias") else torch.ones(shape)
        digest = hashlib.sha256(f"{self.seed} {hf_name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        is_into_residual = hf_name.endswith(_INTO_RESIDUAL)
        scale = self.std / math.sqrt(2 * self.architecture.num_layers) if is_into_residual else self.std
        return scale * torch.randn(shape, generator=generator)
