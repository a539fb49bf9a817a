"""One trainer rank: mirror-descent updates and logprobs on megatron-core's schedules.

An update of K optimizer steps first takes the reference logprobs of all its sequences (the policy is still π_i), then
runs the steps. With K = 1 that pass is left out: there the policy is its own reference, exactly.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megatron_k15.config import TrainConfig
from megatron_k15.errors import ModelError
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.layer_specs import uses_transformer_engine
from megatron_k15.models.policy import PolicyModel
from megatron_k15.parallel.context import ParallelContext
from megatron_k15.training.objective import Head, Objective
from megatron_k15.training.optimizer import (
    SHARDING,
    build_optimizer,
    load_state,
    optimizer_tensors,
    reset,
    set_learning_rate,
    sharded_state,
    step,
    wrap_data_parallel,
)
from megatron_k15.training.packing import MicroBatch, assign, families, pack_sizes
from megatron_k15.types import TrainingSequence

STATISTICS = ("loss", "num_tokens", "num_sequences", "log_ratio", "neg_logprob", "behaviour_gap", "behaviour_kl")
"""Sums over tokens or sequences, taken on the last pipeline stage."""


@dataclass(kw_only=True)
class PlannedStep:
    """This rank's micro-batches of one optimizer step; `references[i]` belongs to `batches[i]`."""

    batches: list[MicroBatch]
    references: list[Tensor | None] = field(default_factory=list)


class Trainer:
    """Every method is collective over all ranks."""

    def __init__(
        self,
        config: TrainConfig,
        context: ParallelContext,
        architecture: Architecture,
        chunks: Sequence[PolicyModel],
        *,
        dtype: str,
        num_iterations: int,
        temperature: float = 1.0,
    ) -> None:
        """
        Args:
            chunks: this rank's, with their weights loaded.
            num_iterations: of the run, for the learning-rate schedule.
            temperature: that rollouts sample at; both sides divide the logits by it.
        """
        self._config = config
        self._objective = Objective(config=config)
        self._context = context
        self._architecture = architecture
        self._num_iterations = num_iterations
        self._temperature = temperature
        self._saves_optimizer = dtype != "fp32" or not config.reset_optimizer
        # Transformer Engine's attention knows plain packs only.
        self._share_prompts = config.share_prompts and not uses_transformer_engine(context.platform)
        self.policy = list(chunks)
        self._chunks: list[DistributedDataParallel] = wrap_data_parallel(chunks, context)
        self.optimizer = build_optimizer(config, self._chunks, context, dtype=dtype)
        model_config = chunks[0].config
        model_config.finalize_model_grads_func = self._finalize_gradients
        self._run = get_forward_backward_func()

    def start_iteration(self, iteration: int) -> None:
        """The present policy becomes the reference: reset the optimizer, set the learning rate."""
        if self._config.reset_optimizer:
            reset(self.optimizer)
        set_learning_rate(self.optimizer, self.learning_rate(iteration))

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
        """What a checkpoint holds: the policy, and the optimizer where the next iteration needs it.

        It does where it is not reset, and in bf16, where it holds the weights in fp32.
        """
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

    def learning_rate(self, iteration: int) -> float:
        start, end = self._config.learning_rate, self._config.min_learning_rate
        if end is None or self._num_iterations < 2:
            return start
        return start + (end - start) * min(1.0, iteration / (self._num_iterations - 1))

    def update(self, steps: Sequence[Sequence[TrainingSequence]]) -> dict[str, float]:
        """One optimizer step per entry of `steps`. Returns metrics, the same on every rank.

        Raises:
            ModelError: a gradient is not finite; the weights are as before that step.
        """
        plan = [PlannedStep(batches=self._micro_batches(sequences, self._temperature)) for sequences in steps]
        for planned in plan:
            planned.references = self._logprobs(planned.batches) if len(plan) > 1 else [None] * len(planned.batches)
        norms = []
        sums = torch.zeros(len(STATISTICS), dtype=torch.float64)
        for planned in plan:
            sums += self._gradients(planned)
            norms.append(self._optimizer_step())
        return self._metrics(sums, norms)

    def logprobs(self, sequences: Sequence[TrainingSequence], *, temperature: float = 1.0) -> list[list[float]]:
        """log π of every token in each sequence's loss mask, in order; the same lists on every rank."""
        batches = self._micro_batches(sequences, temperature)
        found: dict[int, list[float]] = {}
        for batch, logprobs in zip(batches, self._logprobs(batches), strict=True):
            if logprobs is not None:
                for owner, source in enumerate(batch.sources):
                    found[source] = logprobs[batch.sequence_N == owner].tolist()
        gathered: list[dict[int, list[float]]] = [{} for _ in range(self._context.world_size)]
        dist.all_gather_object(gathered, found if self._context.tensor_rank == 0 else {})
        merged = {source: values for part in gathered for source, values in part.items()}
        return [merged[index] for index in range(len(sequences))]

    def _micro_batches(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[MicroBatch]:
        context, max_tokens = self._context, self._config.max_tokens_per_micro_batch
        interleaved = context.num_chunks > 1
        total = sum(len(sequence.token_ids) for sequence in sequences)
        units = families(
            sequences,
            share_prompts=self._share_prompts,
            # Small enough to give every data-parallel rank its part.
            max_tokens=min(max_tokens, -(-total // context.data_size)),
            hidden_size=self._architecture.hidden_size,
        )
        assigned = assign(
            units,
            data_size=context.data_size,
            max_tokens=max_tokens,
            # The interleaved schedule works in groups of as many micro-batches as there are stages.
            multiple=context.pipeline_size if interleaved else 1,
        )[context.data_rank]
        multiple = context.tensor_size if context.config.sequence_parallel else 1
        sizes = pack_sizes(assigned, multiple=multiple, equal=interleaved)
        return [
            MicroBatch.pack(
                sequences,
                [index for family in members for index in family.members],
                num_tokens=size,
                share_prompts=self._share_prompts,
                temperature=temperature,
                device=context.platform.device,
            )
            for members, size in zip(assigned, sizes, strict=True)
        ]

    def _logprobs(self, batches: Sequence[MicroBatch]) -> list[Tensor | None]:
        """[N] per micro-batch on the last pipeline stage, None elsewhere."""
        with torch.no_grad():
            results = self._schedule(batches, lambda batch, _: partial(self._only_logprobs, batch), forward_only=True)
        return list(results) if results else [None] * len(batches)

    def _gradients(self, planned: PlannedStep) -> Tensor:
        """Gradients of one step into the buffers; its statistics, [len(STATISTICS)], on this rank."""
        for chunk in self._chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        references = planned.references
        results = self._schedule(
            planned.batches, lambda batch, index: partial(self._loss, batch, references[index]), forward_only=False
        )
        if not results or self._context.tensor_rank != 0:
            return torch.zeros(len(STATISTICS), dtype=torch.float64)
        return torch.stack(results).sum(0).double().cpu()

    def _schedule(self, batches: Sequence[MicroBatch], loss_of: Any, *, forward_only: bool) -> list[Tensor]:
        """Run megatron-core's schedule; what the loss functions returned, on the last stage (else empty)."""

        def forward_step(numbered: Iterator[tuple[int, MicroBatch]], model: DistributedDataParallel) -> tuple[Any, Any]:
            index, batch = next(numbered)
            return model(batch.tokens), loss_of(batch, index)

        return self._run(
            forward_step_func=forward_step,
            data_iterator=[iter(enumerate(batches)) for _ in self._chunks],
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
            policy.head_input(hidden)[batch.rows_N],
            policy.head_weight(),
            policy.vocabulary_start,
            self._context.groups.tp,
        )

    def _only_logprobs(self, batch: MicroBatch, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logprobs_N = self._objective.logprobs(batch, self._head(batch, hidden))
        return hidden.new_zeros(()), _no_tokens(hidden), logprobs_N

    def _loss(self, batch: MicroBatch, reference_N: Tensor | None, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the schedule asks of a loss function: (loss to differentiate, token count, what to keep)."""
        loss, logprobs_N, log_ratios_S = self._objective.loss(batch, reference_N, self._head(batch, hidden))
        # A filler pack has no token in the loss, yet every parameter must get its (zero) gradient.
        loss = loss + 0.0 * hidden.sum()
        return loss, _no_tokens(hidden), _statistics(batch, loss, logprobs_N, log_ratios_S)

    def _finalize_gradients(self, chunks: Any, num_tokens: Any = None, **options: Any) -> None:
        """megatron-core's reductions, without its division by the token count: the loss carries its weights."""
        finalize_model_grads(chunks, None, **options)

    def _optimizer_step(self) -> float:
        norm = step(self.optimizer, clip_grad_norm=self._config.clip_grad_norm)
        if not math.isfinite(norm):
            raise ModelError(
                f"the gradient norm must be finite, got {norm}; lower train.learning_rate or look at the data"
            )
        return norm

    def _metrics(self, sums: Tensor, norms: Sequence[float]) -> dict[str, float]:
        dist.all_reduce(sums)
        total = dict(zip(STATISTICS, sums.tolist(), strict=True))
        tokens, sequences = max(total["num_tokens"], 1.0), max(total["num_sequences"], 1.0)
        return {
            "loss": total["loss"] / max(1, len(norms)),
            "grad_norm": max(norms, default=0.0),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "num_tokens": total["num_tokens"],
            "log_ratio_mean": total["log_ratio"] / sequences,
            # -log π of sampled tokens is an unbiased estimate of the policy's entropy.
            "entropy_estimate": total["neg_logprob"] / tokens,
            "behaviour_gap_mean": total["behaviour_gap"] / tokens,
            "behaviour_kl_estimate": total["behaviour_kl"] / tokens,
        }


def _no_tokens(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.int, device=like.device)


@torch.no_grad()
def _statistics(batch: MicroBatch, loss: Tensor, logprobs_N: Tensor, log_ratios_S: Tensor) -> Tensor:
    """[len(STATISTICS)] fp64."""
    difference_N = (logprobs_N - batch.behaviour_N).double()
    values = (
        loss,
        logprobs_N.numel(),
        log_ratios_S.numel(),
        log_ratios_S.sum(),
        -logprobs_N.sum(),
        difference_N.abs().sum(),
        # Of KL(behaviour || policy), never negative (Schulman's k3).
        (difference_N.exp() - 1 - difference_N).sum(),
    )
    return torch.tensor([float(value) for value in values], dtype=torch.float64, device=logprobs_N.device)
