"""One trainer rank: an optimizer step of any objective over this rank's micro-batches, on megatron-core's schedules.

    micro-batches ─► forward, objective's loss, backward (TP×PP×DP) ─► reduced gradients ─► clip, step ─► metrics

`policy_trainer.py` makes RL's updates of it; the supervised stages call `train_step` themselves.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megatron_k15.config import UpdateConfig
from megatron_k15.errors import ModelError
from megatron_k15.models.policy import PolicyModel
from megatron_k15.parallel.context import ParallelContext
from megatron_k15.training.micro_batch import MicroBatch
from megatron_k15.training.objective import Head, Objective
from megatron_k15.training.optimizer import (
    SHARDING,
    build_optimizer,
    load_state,
    optimizer_tensors,
    set_learning_rate,
    sharded_state,
    step,
    wrap_data_parallel,
)

Evaluate = Callable[[MicroBatch, Head], Tensor]
"""What to keep of a micro-batch's forward pass."""


class Trainer:
    """Every method is collective over all ranks."""

    def __init__(
        self,
        config: UpdateConfig,
        objective: Objective,
        context: ParallelContext,
        chunks: Sequence[PolicyModel],
        *,
        dtype: str,
        saves_optimizer: bool = True,
    ) -> None:
        """
        Args:
            chunks: this rank's, with their weights loaded.
            saves_optimizer: whether checkpoints hold the optimizer's state.
        """
        self.config = config
        self.objective = objective
        self.context = context
        self._saves_optimizer = saves_optimizer
        self.policy = list(chunks)
        self._chunks: list[DistributedDataParallel] = wrap_data_parallel(chunks, context)
        self.optimizer = build_optimizer(config, self._chunks, context, dtype=dtype)
        model_config = chunks[0].config
        # Not a method: the optimizer's shards hold autograd's nodes, these the backward hooks, these the model. If the
        # model led back to the optimizer, that would be a circle through C++, which is never collected.
        model_config.finalize_model_grads_func = _finalize_gradients
        self._run = get_forward_backward_func()

    def tensors(self) -> Iterator[Tensor]:
        """Everything large that this rank holds between steps: parameters, gradients, optimizer state."""
        for chunk in self._chunks:
            yield from chunk.module.parameters()
            yield from chunk.module.buffers()
            # megatron-core's own buffers, which parameters and gradients are views of; `buffers` hides torch's there.
            for buffer in chunk.buffers:
                yield from (data for data in (buffer.param_data, buffer.grad_data) if data is not None)
        yield from optimizer_tensors(self.optimizer)

    def sharded_state_dict(self, *, is_loading: bool = False) -> dict[str, Any]:
        """What a checkpoint holds: the policy, and the optimizer where it goes on from its state."""
        state: dict[str, Any] = {
            f"model{index}": chunk.sharded_state_dict(metadata=SHARDING) for index, chunk in enumerate(self.policy)
        }
        if self._saves_optimizer:
            state["optimizer"] = sharded_state(self.optimizer, state, is_loading=is_loading)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `sharded_state_dict` described."""
        for index, chunk in enumerate(self.policy):
            chunk.load_state_dict(state[f"model{index}"])
        if "optimizer" in state:
            load_state(self.optimizer, state["optimizer"])

    def set_rope_theta(self, theta: float) -> None:
        """The rotary base of all chunks from now on."""
        for chunk in self.policy:
            chunk.set_rope_theta(theta)

    def train_step(self, batches: Sequence[MicroBatch], *, learning_rate: float) -> dict[str, float]:
        """One optimizer step. The objective's metrics and the gradient norm, alike on every rank.

        Raises:
            ModelError: a gradient is not finite; the weights are as before.
        """
        set_learning_rate(self.optimizer, learning_rate)
        sums, norm = self.step(batches)
        return {**self.objective.metrics(self.totals(sums)), "grad_norm": norm}

    def step(self, batches: Sequence[MicroBatch]) -> tuple[Tensor, float]:
        """(this rank's sums of the objective's statistics, the gradient norm before clipping)."""
        sums = self._gradients(batches)
        return sums, self._optimizer_step()

    def totals(self, sums: Tensor) -> dict[str, float]:
        """The statistics by name, summed over all ranks."""
        dist.all_reduce(sums)
        return dict(zip(self.objective.statistics, sums.tolist(), strict=True))

    def evaluate(self, batches: Sequence[MicroBatch], keep: Evaluate) -> list[Tensor | None]:
        """Without gradients: `keep` of each micro-batch on the last pipeline stage, None elsewhere."""
        with torch.no_grad():
            results = self._schedule(batches, partial(self._only, keep), forward_only=True)
        return list(results) if results else [None] * len(batches)

    def _gradients(self, batches: Sequence[MicroBatch]) -> Tensor:
        """Gradients of one step into the buffers; its statistics, [K], on this rank."""
        for chunk in self._chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        results = self._schedule(batches, self._loss, forward_only=False)
        if not results or self.context.tensor_rank != 0:
            return torch.zeros(len(self.objective.statistics), dtype=torch.float64)
        return torch.stack(results).sum(0).double().cpu()

    def _schedule(self, batches: Sequence[MicroBatch], loss: Any, *, forward_only: bool) -> list[Tensor]:
        """Run megatron-core's schedule; what the loss function kept, on the last stage (else empty)."""

        def forward_step(following: Iterator[MicroBatch], model: DistributedDataParallel) -> tuple[Any, Any]:
            batch = next(following)
            return model(batch.tokens), partial(loss, batch)

        return self._run(
            forward_step_func=forward_step,
            data_iterator=[iter(batches) for _ in self._chunks],
            model=self._chunks,
            num_microbatches=len(batches),
            # Read by the interleaved schedule alone, whose packs are all of one size.
            seq_length=batches[0].tokens.num_tokens,
            micro_batch_size=1,
            forward_only=forward_only,
        )

    def _head(self, batch: MicroBatch, hidden: Tensor) -> Head:
        policy = self.policy[-1]
        return Head(
            policy.head_input(hidden)[self.objective.rows(batch)],
            policy.head_weight(),
            policy.vocabulary_start,
            policy.head_group,
        )

    def _only(self, keep: Evaluate, batch: MicroBatch, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return hidden.new_zeros(()), _no_tokens(hidden), keep(batch, self._head(batch, hidden))

    def _loss(self, batch: MicroBatch, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the schedule asks of a loss function: (loss to differentiate, token count, what to keep)."""
        loss, statistics_K = self.objective.loss(batch, self._head(batch, hidden))
        # A filler pack has no token in the loss, yet every parameter must get its (zero) gradient.
        return loss + 0.0 * hidden.sum(), _no_tokens(hidden), statistics_K

    def _optimizer_step(self) -> float:
        norm = step(self.optimizer, clip_grad_norm=self.config.clip_grad_norm)
        if not math.isfinite(norm):
            raise ModelError(
                f"the gradient norm must be finite, got {norm}; lower the learning rate or look at the data"
            )
        return norm


def _finalize_gradients(chunks: Any, num_tokens: Any = None, **options: Any) -> None:
    """megatron-core's reductions, without its division by the token count: the loss carries its weights."""
    finalize_model_grads(chunks, None, **options)


def _no_tokens(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.int, device=like.device)
