"""What is trained: a loss over one micro-batch, from the model's hidden states at the rows it asks for.

    hidden states of a pack ─► rows(batch) ─► Head ─► loss, statistics

`policy_objective.py` is RL's, `cross_entropy.py` that of pretraining and SFT, `preferences.py` DPO's and
`correctness.py` the reward model's.

Legend: N tokens in the loss, R rows, H hidden, V this tensor rank's part of the head, S sequences, K statistics.
"""

from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_k15.training.micro_batch import MicroBatch


class Head(NamedTuple):
    """The last layer's input and weight, on this tensor rank."""

    hidden_RH: Tensor
    """Of the objective's rows."""
    weight_VH: Tensor
    vocabulary_start: int
    """Token id of the weight's first row."""
    group: dist.ProcessGroup | None
    """Over which the weight's rows are split."""


class Outcome(NamedTuple):
    loss: Tensor
    """Scalar, differentiable, for one backward pass. Sums over micro-batches and ranks to the step's loss."""
    statistics_K: Tensor
    """fp64 sums over tokens or sequences, named by `Objective.statistics`."""


class Objective(Protocol):
    statistics: ClassVar[tuple[str, ...]]

    def rows(self, batch: MicroBatch) -> Tensor:
        """int64 [R]: the positions in the pack whose hidden states the loss needs."""

    def loss(self, batch: MicroBatch, head: Head) -> Outcome:
        """The micro-batch's part of the step's loss."""

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        """What to show of a step, from the statistics' sums over all ranks."""


def statistics_of(loss: Tensor, *others: Tensor | float) -> Tensor:
    """[K]: the loss and other sums, as `Outcome` holds them."""
    values = [float(value) for value in (loss.detach(), *others)]
    return torch.tensor(values, dtype=torch.float64, device=loss.device)
