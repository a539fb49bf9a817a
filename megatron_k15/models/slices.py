"""This rank's part of every Hugging Face tensor, as views into its megatron-core parameters."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import EMBEDDING, OUTPUT, WeightRule, te_name, weight_rules
from megatron_k15.parallel.context import ParallelContext

if TYPE_CHECKING:
    from megatron_k15.models.policy import PolicyModel

LAYER = re.compile(r"decoder\.layers\.(\d+)\.")


class WeightSlice(NamedTuple):
    rule: WeightRule
    local: Tensor
    """A view: its elements, in order, are this rank's slice of the HF tensor."""


def named_parameters(chunks: Sequence["PolicyModel"]) -> dict[str, nn.Parameter]:
    """megatron-core name with the layer's number in the whole model → parameter of this rank."""
    found: dict[str, nn.Parameter] = {}
    for chunk in chunks:
        numbers = {str(index): layer.layer_number - 1 for index, layer in enumerate(chunk.decoder.layers)}
        for name, parameter in chunk.named_parameters():
            whole = LAYER.sub(lambda match: f"decoder.layers.{numbers[match[1]]}.", name)  # noqa: B023
            found[whole] = parameter
    return found


def weight_slices(
    chunks: Sequence["PolicyModel"], architecture: Architecture, context: ParallelContext
) -> list[WeightSlice]:
    """In Hugging Face's order. Empty views (a rank that holds only vocabulary padding) are left out."""
    return list(_slices(named_parameters(chunks), architecture, context))


def _slices(
    parameters: Mapping[str, nn.Parameter], architecture: Architecture, context: ParallelContext
) -> Iterator[WeightSlice]:
    for rule in weight_rules(architecture):
        parameter = parameters.get(rule.mcore_name)
        if parameter is None:
            parameter = parameters.get(te_name(rule.mcore_name))
        if parameter is not None:
            local = rule.local_view(parameter.data, context.tensor_rank, context.tensor_size)
            if local.numel():
                yield WeightSlice(rule, local)


def tied_head(chunks: Sequence["PolicyModel"], architecture: Architecture) -> nn.Parameter | None:
    """The last stage's own copy of tied embeddings, which no rule names; None where there is none."""
    parameters = named_parameters(chunks)
    if not architecture.tied_embeddings or EMBEDDING in parameters:
        return None
    return parameters.get(OUTPUT)


def mark_split_parameters(chunks: Sequence["PolicyModel"], architecture: Architecture) -> None:
    """Say which parameters tensor parallelism splits: the gradient norm counts all others once.

    megatron-core's layers (0.16.1) say so only while they initialize at random, which `build_policy` leaves out.
    """
    dims = {rule.mcore_name: rule.shard_dim for rule in weight_rules(architecture)}
    dims |= {te_name(name): dim for name, dim in dims.items()}
    # The last stage's copy of tied embeddings has no rule.
    dims.setdefault(OUTPUT, dims[EMBEDDING])
    for name, parameter in named_parameters(chunks).items():
        dim = dims[name]
        if dim is not None and not getattr(parameter, "tensor_model_parallel", False):
            parameter.tensor_model_parallel = True
            parameter.partition_dim = dim
            parameter.partition_stride = 1
