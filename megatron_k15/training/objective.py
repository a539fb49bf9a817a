"""The loss of one micro-batch from the policy's hidden states: fused kernels, or the same in plain PyTorch.

`train.kernels` chooses. Both compute online mirror descent (§2.3.2); `mirror_descent.py` is the one to change for
another loss, which `train.kernels=reference` then uses.

Legend: N tokens in the loss, H hidden, V this tensor rank's part of the vocabulary, S sequences.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_k15.config import TrainConfig
from megatron_k15.kernels.linear_loss import linear_logprobs, linear_policy_loss
from megatron_k15.kernels.policy_loss import Sequences
from megatron_k15.training.mirror_descent import mirror_descent_loss
from megatron_k15.training.packing import MicroBatch
from megatron_k15.training.token_logprobs import token_logprobs


class Head(NamedTuple):
    """The last layer's input and weight, on this tensor rank."""

    hidden_NH: Tensor
    """Of the positions that predict the tokens in the loss."""
    weight_VH: Tensor
    vocabulary_start: int
    """Token id of the weight's first row."""
    group: dist.ProcessGroup | None
    """Over which the vocabulary is split."""


class Outcome(NamedTuple):
    loss: Tensor
    """Scalar, differentiable, for one backward pass."""
    logprobs_N: Tensor
    """Not to be differentiated."""
    log_ratios_S: Tensor
    """s_j."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    config: TrainConfig

    def logprobs(self, batch: MicroBatch, head: Head) -> Tensor:
        """[N] log π of the targets, without a gradient."""
        options = _head_options(batch, head)
        if self.config.kernels == "fused":
            return linear_logprobs(head.hidden_NH, head.weight_VH, batch.targets_N, tensor_group=head.group, **options)
        with torch.no_grad():
            return token_logprobs(head.hidden_NH, head.weight_VH, batch.targets_N, group=head.group, **options)

    def loss(self, batch: MicroBatch, reference_N: Tensor | None, head: Head) -> Outcome:
        """
        Args:
            reference_N: log π_i of each token; None where π_θ still is π_i.
        """
        behaviour_N = batch.behaviour_N if self.config.importance_correction == "truncated" else None
        compute = self._fused if self.config.kernels == "fused" else self._reference
        return compute(batch, reference_N, behaviour_N, head)

    def _fused(self, batch: MicroBatch, reference_N: Tensor | None, behaviour_N: Tensor | None, head: Head) -> Outcome:
        in_loss_N = torch.ones_like(batch.targets_N, dtype=torch.bool)
        found = linear_policy_loss(
            head.hidden_NH,
            head.weight_VH,
            batch.targets_N,
            Sequences(reference_N, behaviour_N, in_loss_N, batch.bounds, batch.advantages_S, batch.weights_S),
            tau=self.config.tau,
            importance_clip=self.config.importance_clip,
            tensor_group=head.group,
            in_place=True,
            **_head_options(batch, head),
        )
        return Outcome(found.loss, found.logprobs_N, found.log_ratios_S)

    def _reference(
        self, batch: MicroBatch, reference_N: Tensor | None, behaviour_N: Tensor | None, head: Head
    ) -> Outcome:
        logprobs_N = token_logprobs(
            head.hidden_NH, head.weight_VH, batch.targets_N, group=head.group, **_head_options(batch, head)
        )
        loss, log_ratios_S = mirror_descent_loss(
            logprobs_N,
            batch.sequence_N,
            batch.advantages_S,
            batch.weights_S,
            tau=self.config.tau,
            reference_N=reference_N,
            behaviour_N=behaviour_N,
            importance_clip=self.config.importance_clip,
        )
        return Outcome(loss, logprobs_N.detach(), log_ratios_S)


def _head_options(batch: MicroBatch, head: Head) -> dict[str, Any]:
    return {"vocabulary_start": head.vocabulary_start, "temperature": batch.temperature}
