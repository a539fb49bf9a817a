"""megatron-core parameters as its `torch_dist` checkpoints name and stack them.

megatron-core 0.16.1 (`TransformerBlock.sharded_state_dict`, homogeneous layers) stacks the same parameter of all layers
into one tensor: `decoder.layers.3.mlp.linear_fc2.weight` [H, F] is row 3 of `decoder.layers.mlp.linear_fc2.weight`
[L, H, F]. In the checkpoint `linear_fc1` is [all gate rows; all up rows], whatever the tensor-parallel size
(`apply_swiglu_sharded_factory`), and the norms carry Transformer Engine's names.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch

from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import OUTPUT, WeightRule, te_name, weight_rules

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.")


@dataclass(frozen=True)
class StoredParameter:
    """One unsplit megatron-core parameter and the Hugging Face tensors in it."""

    rules: tuple[WeightRule, ...]
    num_layers: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameter alone, without the layer axis."""
        return self.rules[0].mcore_shape

    @cached_property
    def layer(self) -> int | None:
        """None outside the layers."""
        found = _LAYER.match(self.rules[0].mcore_name)
        return int(found[1]) if found else None

    @cached_property
    def key(self) -> str:
        return _LAYER.sub("decoder.layers.", te_name(self.rules[0].mcore_name))

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return self.shape if self.layer is None else (self.num_layers, *self.shape)

    def stored_offset(self, *offset: int) -> tuple[int, ...]:
        """A place in the parameter → in the stored tensor."""
        whole = (*offset, *[0] * (len(self.shape) - len(offset)))
        return whole if self.layer is None else (self.layer, *whole)

    def stage(self, pipeline_size: int) -> int:
        """The pipeline stage that holds it."""
        if self.layer is not None:
            return self.layer * pipeline_size // self.num_layers
        is_at_end = self.rules[0].mcore_name in (OUTPUT, "decoder.final_layernorm.weight")
        return pipeline_size - 1 if is_at_end else 0


def stored_parameters(architecture: Architecture) -> list[StoredParameter]:
    groups: dict[str, list[WeightRule]] = {}
    for rule in weight_rules(architecture):
        groups.setdefault(rule.mcore_name, []).append(rule)
    return [StoredParameter(tuple(rules), architecture.num_layers) for rules in groups.values()]


def first_row(rule: WeightRule) -> int | None:
    """The row of the unsplit parameter where the HF tensor's rows begin; None where they are scattered (QKV)."""
    view = _unsplit_view(rule)
    return view.storage_offset() // prod(rule.mcore_shape[1:]) if view.is_contiguous() else None


def num_groups(rule: WeightRule) -> int:
    """Into how many alike parts a scattered parameter falls: its query groups."""
    return _unsplit_view(rule).shape[0]


def state_keys(parameters: Sequence[StoredParameter], architecture: Architecture) -> list[str]:
    """Keys of the extra states that megatron-core's modules ask for when they load (fp8 scales; ours hold None)."""
    modules = {p.key.rpartition(".")[0]: p.layer is not None for p in parameters if p.key.startswith("decoder.")}
    return [
        f"{module}._extra_state/shard_{place}_{count}"
        for module, is_stacked in modules.items()
        for count in [architecture.num_layers if is_stacked else 1]
        for place in range(count)
    ]


def _unsplit_view(rule: WeightRule) -> torch.Tensor:
    return rule.local_view(torch.empty(rule.mcore_shape, device="meta"), 0, 1)
