"""The objective of the classic reward model (§2.3.5): binary cross entropy of one score, on the sequence's last token.

    loss = -Σ_j w_j [y_j log σ(x_j) + (1 - y_j) log σ(-x_j)]      x_j the score, y_j 1 for a right response, else 0

Legend: S sequences.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from megatron_k15.training.micro_batch import MicroBatch
from megatron_k15.training.objective import Head, Outcome, statistics_of


@dataclass(frozen=True, kw_only=True)
class Correctness:
    statistics: ClassVar[tuple[str, ...]] = ("loss", "num_sequences", "num_agreeing", "num_labelled_right")

    def rows(self, batch: MicroBatch) -> Tensor:
        return batch.last_S

    def scores(self, batch: MicroBatch, head: Head) -> Tensor:
        """[S] fp32 logits: above 0, the response is taken for right."""
        return linear(head.hidden_RH, head.weight_VH).squeeze(-1).float()

    def loss(self, batch: MicroBatch, head: Head) -> Outcome:
        scores_S = self.scores(batch, head)
        losses_S = binary_cross_entropy_with_logits(scores_S, batch.labels_S, reduction="none")
        loss = (batch.weights_S * losses_S).sum()
        agreeing = ((scores_S > 0) == (batch.labels_S > 0.5)).sum()
        return Outcome(loss, statistics_of(loss, len(scores_S), agreeing, batch.labels_S.sum()))

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        count = max(totals["num_sequences"], 1.0)
        return {
            "loss": totals["loss"],
            "num_sequences": totals["num_sequences"],
            "accuracy": totals["num_agreeing"] / count,
            "share_right": totals["num_labelled_right"] / count,
        }
