"""megatron-core's optimizer over the policy's chunks, and its reset at the start of an iteration (§2.3.2)."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32

from megatron_k15.config import UpdateConfig
from megatron_k15.errors import ConfigError
from megatron_k15.models.policy import PolicyModel
from megatron_k15.parallel.context import ParallelContext
from megatron_k15.parallel.platform import DTYPES

SHARDING = {"distrib_optim_sharding_type": "fully_reshardable"}
"""How megatron-core lays the distributed optimizer's state out in checkpoints."""


def wrap_data_parallel(chunks: Sequence[PolicyModel], context: ParallelContext) -> list[DistributedDataParallel]:
    """Each chunk with its gradient buffer: fp32, summed over the data-parallel ranks."""
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=context.config.use_distributed_optimizer,
        overlap_grad_reduce=False,
    )
    return [
        DistributedDataParallel(
            chunk.config,
            ddp_config,
            chunk,
            # As Megatron-LM does: bucketing helps overlap, and only the first chunk's gradients come last.
            disable_bucketing=index > 0,
            pg_collection=context.groups,
        )
        for index, chunk in enumerate(chunks)
    ]


def build_optimizer(
    config: UpdateConfig, chunks: Sequence[DistributedDataParallel], context: ParallelContext, *, dtype: str
) -> MegatronOptimizer:
    """
    Raises:
        ConfigError: SGD together with the distributed optimizer, which megatron-core does not have.
    """
    if config.optimizer == "sgd" and context.config.use_distributed_optimizer:
        raise ConfigError("train.optimizer=sgd needs parallel.use_distributed_optimizer=false")
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer=config.optimizer,
            # Set before every step: `set_learning_rate`.
            lr=0.0,
            min_lr=0.0,
            weight_decay=config.weight_decay,
            adam_beta1=config.adam_beta1,
            adam_beta2=config.adam_beta2,
            adam_eps=config.adam_eps,
            sgd_momentum=0.0,
            clip_grad=config.clip_grad_norm,
            use_distributed_optimizer=context.config.use_distributed_optimizer,
            params_dtype=DTYPES[dtype],
            bf16=dtype == "bf16",
        ),
        list(chunks),
    )
    if context.platform.name == "cpu" and config.optimizer == "adam":
        for inner in inner_optimizers(optimizer):
            for group in inner.param_groups:
                group["fused"] = True  # one pass over memory instead of six
    return optimizer


def inner_optimizers(optimizer: MegatronOptimizer) -> list[torch.optim.Optimizer]:
    """The torch (or Transformer Engine, or Apex) optimizers inside, leaving out those of ranks without parameters."""
    return [part.optimizer for part in _parts(optimizer) if part.optimizer is not None]


def _parts(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    return getattr(optimizer, "chained_optimizers", [optimizer])


def optimizer_tensors(optimizer: MegatronOptimizer) -> Iterator[torch.Tensor]:
    """What the optimizers hold: their parameters (fp32 copies, where the model's are bf16), gradients and state."""
    for inner in inner_optimizers(optimizer):
        for group in inner.param_groups:
            for parameter in group["params"]:
                yield parameter
                if parameter.grad is not None:
                    yield parameter.grad
        for state in inner.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))


def set_learning_rate(optimizer: MegatronOptimizer, learning_rate: float) -> None:
    for inner in inner_optimizers(optimizer):
        for group in inner.param_groups:
            group["lr"] = learning_rate


@torch.no_grad()
def step(optimizer: MegatronOptimizer, *, clip_grad_norm: float) -> float:
    """Clip and step; returns the norm before clipping. Where it is not finite, nothing is changed.

    megatron-core's own `step` would write a non-finite gradient into the weights before anyone sees its norm.
    """
    optimizer.prepare_grads()
    norm = float(optimizer.get_grad_norm())
    if not math.isfinite(norm):
        return norm
    if 0.0 < clip_grad_norm < norm:
        for part in _parts(optimizer):
            if parameters := part.get_parameters():
                clip_grad_by_total_norm_fp32(parameters, clip_grad_norm, norm)
    optimizer.step_with_ready_grads()
    return norm


def sharded_state(optimizer: MegatronOptimizer, policy_state: dict[str, Any], *, is_loading: bool) -> dict[str, Any]:
    """The optimizer's state for a distributed checkpoint, in a form that loads at any tensor x pipeline x data size.

    Args:
        policy_state: the policy's own sharded state.
    """
    (part,) = _parts(optimizer)  # more than one only with mixtures of experts
    if is_loading and any(not inner.state for inner in inner_optimizers(optimizer)):
        part._init_optimizer_states_with_dummy_values()
    return part.sharded_state_dict(policy_state, is_loading=is_loading, metadata=SHARDING)


@torch.no_grad()
def load_state(optimizer: MegatronOptimizer, state: dict[str, Any]) -> None:
    """Take what `sharded_state` described.

    megatron-core 0.16.1 loads torch's Adam (used where neither Transformer Engine nor Apex is) in two parts that do not
    fit: the first puts one shared `step` tensor into every parameter's state, the second stops at that key.
    """
    (part,) = _parts(optimizer)
    moments = state.pop("param_state", None)
    if moments is None:
        part.load_state_dict(state)
        return
    sharding = state.pop("param_state_sharding_type")
    assert sharding == SHARDING["distrib_optim_sharding_type"]
    part.load_state_dict(state)
    states = part.optimizer.state.values()
    steps = [of_parameter.pop("step", None) for of_parameter in states]
    part.load_parameter_state_from_fully_reshardable(moments)
    for of_parameter, step in zip(states, steps, strict=True):
        if step is not None:
            of_parameter["step"] = step.clone()


@torch.no_grad()
def reset(optimizer: MegatronOptimizer) -> None:
    """Forget moments and step count, in place: fresh memory would cost page faults every iteration."""
    for inner in inner_optimizers(optimizer):
        for state in inner.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()
        for group in inner.param_groups:
            if "step" in group:  # Apex and Transformer Engine count per group
                group["step"] = 0
