"""Trainer shards → whole Hugging Face tensors, one after another, for backends that send from the trainer's memory.

    this rank's slice → tensor ranks: all-gather → pipeline ranks: broadcast from the stage that holds it → yield

One tensor is whole at a time: beside the model, a rank holds at most the largest tensor twice (a tensor split along its
columns is gathered, then put in order).
"""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import WeightRule, te_name, weight_rules
from megatron_k15.models.policy import PolicyModel
from megatron_k15.models.slices import named_parameters, weight_slices
from megatron_k15.parallel.context import ParallelContext


@torch.no_grad()
def full_tensors(
    chunks: Sequence[PolicyModel],
    architecture: Architecture,
    context: ParallelContext,
    dtype: torch.dtype,
    *,
    everywhere: bool = False,
) -> Iterator[tuple[str, Tensor]]:
    """Every Hugging Face tensor, whole, contiguous, in `dtype`, on the trainer's device, in the order of
    `weight_rules`. Vocabulary padding is cut off; tied embeddings come once, under the embedding's name.

    Collective: every rank iterates to the end, in step with the others. A tensor may be a view of the parameter it came
    from: it must be used before the next training step, and must not be written to.

    Args:
        everywhere: yield on every rank, each of whose tensor and pipeline groups then gathers for itself; else on rank
            0 alone, and data-parallel replicas other than its own have nothing to do.
    """
    if not everywhere and context.data_rank != 0:
        return
    slices = {part.rule.hf_name: part.local for part in weight_slices(chunks, architecture, context)}
    stages = _stages(chunks, architecture, context)
    yields = everywhere or context.rank == 0
    # Beyond rank 0's own column of stages, its tensor group's other members are done once they have been gathered from.
    receives = everywhere or context.tensor_rank == 0
    for rule, stage in zip(weight_rules(architecture), stages, strict=True):
        whole = None
        if stage == context.pipeline_rank:
            whole = _gather(rule, slices.get(rule.hf_name), context, dtype)
        if receives and context.pipeline_size > 1:
            whole = _broadcast(rule, whole, stage, context, dtype)
        if yields:
            assert whole is not None
            yield rule.hf_name, whole


def _stages(chunks: Sequence[PolicyModel], architecture: Architecture, context: ParallelContext) -> list[int]:
    """The pipeline stage that holds each rule's parameter, in the rules' order."""
    here = named_parameters(chunks)
    held = [rule.mcore_name in here or te_name(rule.mcore_name) in here for rule in weight_rules(architecture)]
    by_stage: list[list[bool]] = [held]
    if context.pipeline_size > 1:
        by_stage = [[]] * context.pipeline_size
        dist.all_gather_object(by_stage, held, group=context.groups.pp)
    return [holders.index(True) for holders in zip(*by_stage, strict=True)]


def _gather(rule: WeightRule, local: Tensor | None, context: ParallelContext, dtype: torch.dtype) -> Tensor:
    """Whole from the tensor group's slices. `local` is None where this rank holds only vocabulary padding."""
    size, dim = context.tensor_size, rule.shard_dim
    if dim is None or size == 1:
        assert local is not None
        return local.to(dtype).reshape(rule.hf_shape)
    # The first rank's slice is the longest: where vocabulary padding is held, the others send less, filled up.
    longest = rule.hf_region(0, size)[1]
    shape = (*rule.hf_shape[:dim], longest, *rule.hf_shape[dim + 1 :])
    sent = torch.empty(shape, dtype=dtype, device=context.platform.device)
    if local is not None:
        length = rule.hf_region(context.tensor_rank, size)[1]
        target = sent.narrow(dim, 0, length)
        target.view(local.shape).copy_(local)
    gathered = torch.empty((size, *shape), dtype=dtype, device=sent.device)
    dist.all_gather_into_tensor(gathered.view(-1, *shape[1:]), sent, group=context.groups.tp)
    if dim == 0:
        return gathered.view(-1, *shape[1:])[: rule.hf_shape[0]]
    return gathered.movedim(0, dim).reshape(rule.hf_shape)


def _broadcast(
    rule: WeightRule, whole: Tensor | None, stage: int, context: ParallelContext, dtype: torch.dtype
) -> Tensor:
    if whole is None:
        whole = torch.empty(rule.hf_shape, dtype=dtype, device=context.platform.device)
    dist.broadcast(whole, src=dist.get_global_rank(context.groups.pp, stage), group=context.groups.pp)
    return whole
