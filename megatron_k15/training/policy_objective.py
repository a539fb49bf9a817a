"""RL's objective, online mirror descent (§2.3.2): fused kernels, or the same in plain PyTorch.

`train.kernels` chooses. `mirror_descent.py` is the one to change for another loss, which `train.kernels=reference` then
uses.

Legend: N tokens in the loss, S sequences.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from megatron_k15.config import TrainConfig
from megatron_k15.kernels.linear_loss import linear_policy_loss
from megatron_k15.kernels.policy_loss import Sequences
from megatron_k15.training.micro_batch import MicroBatch
from megatron_k15.training.mirror_descent import mirror_descent_loss
from megatron_k15.training.objective import Head, Outcome, statistics_of
from megatron_k15.training.token_logprobs import head_logprobs, head_options, token_logprobs


@dataclass(frozen=True, kw_only=True)
class PolicyObjective:
    config: TrainConfig
    statistics: ClassVar[tuple[str, ...]] = (
        "loss",
        "num_tokens",
        "num_sequences",
        "log_ratio",
        "neg_logprob",
        "behaviour_gap",
        "behaviour_kl",
    )

    def rows(self, batch: MicroBatch) -> Tensor:
        return batch.rows_N

    def logprobs(self, batch: MicroBatch, head: Head) -> Tensor:
        """[N] log π of the targets, without a gradient."""
        return head_logprobs(batch, head, fused=self.config.kernels == "fused")

    def loss(self, batch: MicroBatch, head: Head) -> Outcome:
        behaviour_N = batch.behaviour_N if self.config.importance_correction == "truncated" else None
        compute = self._fused if self.config.kernels == "fused" else self._reference
        loss, logprobs_N, log_ratios_S = compute(batch, behaviour_N, head)
        return Outcome(loss, _statistics(batch, loss, logprobs_N, log_ratios_S))

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        tokens, sequences = max(totals["num_tokens"], 1.0), max(totals["num_sequences"], 1.0)
        return {
            "loss": totals["loss"],
            "num_tokens": totals["num_tokens"],
            "log_ratio_mean": totals["log_ratio"] / sequences,
            # -log π of sampled tokens is an unbiased estimate of the policy's entropy.
            "entropy_estimate": totals["neg_logprob"] / tokens,
            "behaviour_gap_mean": totals["behaviour_gap"] / tokens,
            "behaviour_kl_estimate": totals["behaviour_kl"] / tokens,
        }

    def _fused(self, batch: MicroBatch, behaviour_N: Tensor | None, head: Head) -> tuple[Tensor, Tensor, Tensor]:
        in_loss_N = torch.ones_like(batch.targets_N, dtype=torch.bool)
        found = linear_policy_loss(
            head.hidden_RH,
            head.weight_VH,
            batch.targets_N,
            Sequences(batch.reference_N, behaviour_N, in_loss_N, batch.bounds, batch.advantages_S, batch.weights_S),
            tau=self.config.tau,
            importance_clip=self.config.importance_clip,
            tensor_group=head.group,
            in_place=True,
            **head_options(batch, head),
        )
        return found.loss, found.logprobs_N, found.log_ratios_S

    def _reference(self, batch: MicroBatch, behaviour_N: Tensor | None, head: Head) -> tuple[Tensor, Tensor, Tensor]:
        logprobs_N = token_logprobs(
            head.hidden_RH, head.weight_VH, batch.targets_N, group=head.group, **head_options(batch, head)
        )
        loss, log_ratios_S = mirror_descent_loss(
            logprobs_N,
            batch.sequence_N,
            batch.advantages_S,
            batch.weights_S,
            tau=self.config.tau,
            reference_N=batch.reference_N,
            behaviour_N=behaviour_N,
            importance_clip=self.config.importance_clip,
            square=self.config.square,
        )
        return loss, logprobs_N.detach(), log_ratios_S


@torch.no_grad()
def _statistics(batch: MicroBatch, loss: Tensor, logprobs_N: Tensor, log_ratios_S: Tensor) -> Tensor:
    difference_N = (logprobs_N - batch.behaviour_N).double()
    return statistics_of(
        loss,
        logprobs_N.numel(),
        log_ratios_S.numel(),
        log_ratios_S.sum(),
        -logprobs_N.sum(),
        difference_N.abs().sum(),
        # Of KL(behaviour || policy), never negative (Schulman's k3).
        (difference_N.exp() - 1 - difference_N).sum(),
    )
