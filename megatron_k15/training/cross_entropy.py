"""The objective of pretraining and SFT: -Σ w log π over the tokens in the loss, w = 1 / their number in the step.

Legend: N tokens in the loss.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from megatron_k15.kernels.linear_loss import linear_cross_entropy
from megatron_k15.training.micro_batch import MicroBatch
from megatron_k15.training.objective import Head, Outcome, statistics_of
from megatron_k15.training.token_logprobs import head_logprobs, token_logprobs


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    fused: bool = True
    """By the kernels of csrc/, or the same in plain PyTorch."""
    statistics: ClassVar[tuple[str, ...]] = ("loss", "num_tokens", "num_sequences")

    def rows(self, batch: MicroBatch) -> Tensor:
        return batch.rows_N

    def logprobs(self, batch: MicroBatch, head: Head) -> Tensor:
        """[N] log π of the targets, without a gradient."""
        return head_logprobs(batch, head, fused=self.fused)

    def loss(self, batch: MicroBatch, head: Head) -> Outcome:
        weights_N = batch.weights_S[batch.sequence_N]
        if self.fused:
            loss = linear_cross_entropy(
                head.hidden_RH,
                head.weight_VH,
                batch.targets_N,
                weights_N,
                vocabulary_start=head.vocabulary_start,
                tensor_group=head.group,
                in_place=True,
            ).loss
        else:
            logprobs_N = token_logprobs(
                head.hidden_RH,
                head.weight_VH,
                batch.targets_N,
                vocabulary_start=head.vocabulary_start,
                group=head.group,
            )
            loss = -(weights_N * logprobs_N).sum()
        return Outcome(loss, statistics_of(loss, len(batch.targets_N), len(batch.weights_S)))

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        return dict(totals)
