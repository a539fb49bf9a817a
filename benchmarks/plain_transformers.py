"""The plain way to train, as a baseline: transformers' own model class, right padding, logits at every position.

sdpa attention, no cache, cross-entropy over the tokens in the loss, gradients kept in place between steps.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from megatron_k15.parallel.platform import DTYPES
from megatron_k15.types import TrainingSequence

NOT_IN_LOSS = -100


class PlainTransformers:
    def __init__(self, model_dir: Path, *, dtype: str, batch_size: int) -> None:
        """
        Args:
            dtype: `fp32` or `bf16`.
            batch_size: sequences per forward and backward pass, in the order given.
        """
        self._model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=DTYPES[dtype], attn_implementation="sdpa")
        self._model.train()
        self._batch_size = batch_size
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-6, fused=True)

    def forward_backward(self, sequences: Sequence[TrainingSequence]) -> None:
        # megatron-core's redirection looks at every torch call of this thread; plain transformers has none of it.
        with torch._C.DisableTorchFunction():
            self._optimizer.zero_grad(set_to_none=False)
            for start in range(0, len(sequences), self._batch_size):
                ids, attention, labels = _padded(sequences[start : start + self._batch_size])
                logits = self._model(input_ids=ids, attention_mask=attention, use_cache=False).logits
                loss = cross_entropy(
                    logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=NOT_IN_LOSS, reduction="sum"
                )
                (loss / len(sequences)).backward()

    def step(self) -> None:
        with torch._C.DisableTorchFunction():
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimizer.step()


def _padded(sequences: Sequence[TrainingSequence]) -> tuple[Tensor, Tensor, Tensor]:
    """[sequences, longest] ids, attention mask, labels."""
    longest = max(len(sequence.token_ids) for sequence in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.int64)
    attention = torch.zeros_like(ids)
    labels = torch.full_like(ids, NOT_IN_LOSS)
    for row, sequence in enumerate(sequences):
        count = len(sequence.token_ids)
        ids[row, :count] = torch.tensor(sequence.token_ids)
        attention[row, :count] = 1
        labels[row, :count] = torch.where(torch.tensor(sequence.loss_mask), ids[row, :count], NOT_IN_LOSS)
    return ids, attention, labels
