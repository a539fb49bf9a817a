"""The objective of DPO, on pairs (chosen, rejected) that stand side by side in a pack.

    m_p = (s_c - ref_c) - (s_r - ref_r)          s: Σ log π over a response's tokens, ref: the same under the reference
    loss = -Σ_p w_p log σ(β m_p)

Every token of a pair carries the same coefficient, ± w β σ(-β m): the fused kernels first take the logprobs, then the
gradient of a cross entropy with these weights. The logits of all tokens are never held at once.

Legend: N tokens in the loss, S sequences, P pairs.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from megatron_k15.kernels.linear_loss import linear_cross_entropy
from megatron_k15.training.micro_batch import MicroBatch
from megatron_k15.training.objective import Head, Outcome, statistics_of
from megatron_k15.training.token_logprobs import head_logprobs, token_logprobs


@dataclass(frozen=True, kw_only=True)
class Preferences:
    beta: float
    fused: bool = True
    """By the kernels of csrc/, or the same in plain PyTorch."""
    statistics: ClassVar[tuple[str, ...]] = ("loss", "num_pairs", "num_preferred", "margin", "chosen", "rejected")

    def rows(self, batch: MicroBatch) -> Tensor:
        return batch.rows_N

    def sums(self, batch: MicroBatch, head: Head) -> Tensor:
        """[S] Σ log π of each sequence's tokens in the loss, without a gradient."""
        return _by_sequence(head_logprobs(batch, head, fused=self.fused), batch)

    def loss(self, batch: MicroBatch, head: Head) -> Outcome:
        return self._fused(batch, head) if self.fused else self._reference(batch, head)

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        pairs = max(totals["num_pairs"], 1.0)
        return {
            "loss": totals["loss"],
            "num_pairs": totals["num_pairs"],
            "accuracy": totals["num_preferred"] / pairs,
            "margin_mean": totals["margin"] / pairs,
            "chosen_log_ratio_mean": totals["chosen"] / pairs,
            "rejected_log_ratio_mean": totals["rejected"] / pairs,
        }

    def _fused(self, batch: MicroBatch, head: Head) -> Outcome:
        ratios_S = self.sums(batch, head) - batch.references_S
        value, margins_P = self._value(batch, ratios_S)
        pull_P = batch.weights_S[::2] * self.beta * torch.sigmoid(-self.beta * margins_P)
        coefficients_S = torch.stack([pull_P, -pull_P], dim=1).flatten()
        carrier = linear_cross_entropy(
            head.hidden_RH,
            head.weight_VH,
            batch.targets_N,
            coefficients_S[batch.sequence_N],
            in_place=True,
            **_place(head),
        ).loss
        # The carrier's gradient is the loss's; its value is not.
        return self._outcome(carrier - carrier.detach() + value, ratios_S, margins_P)

    def _reference(self, batch: MicroBatch, head: Head) -> Outcome:
        place = _place(head)
        logprobs_N = token_logprobs(
            head.hidden_RH,
            head.weight_VH,
            batch.targets_N,
            vocabulary_start=place["vocabulary_start"],
            group=place["tensor_group"],
        )
        ratios_S = _by_sequence(logprobs_N, batch) - batch.references_S
        value, margins_P = self._value(batch, ratios_S)
        return self._outcome(value, ratios_S, margins_P)

    def _value(self, batch: MicroBatch, ratios_S: Tensor) -> tuple[Tensor, Tensor]:
        margins_P = ratios_S[::2] - ratios_S[1::2]
        return -(batch.weights_S[::2] * logsigmoid(self.beta * margins_P)).sum(), margins_P

    def _outcome(self, loss: Tensor, ratios_S: Tensor, margins_P: Tensor) -> Outcome:
        found = statistics_of(
            loss,
            len(margins_P),
            (margins_P > 0).sum(),
            margins_P.sum(),
            ratios_S[::2].sum(),
            ratios_S[1::2].sum(),
        )
        return Outcome(loss, found)


def _place(head: Head) -> dict[str, Any]:
    return {"vocabulary_start": head.vocabulary_start, "tensor_group": head.group}


def _by_sequence(values_N: Tensor, batch: MicroBatch) -> Tensor:
    return values_N.new_zeros(len(batch.weights_S)).index_add(0, batch.sequence_N, values_N)
