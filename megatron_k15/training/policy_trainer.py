"""RL's updates: mirror descent over the sequences of an iteration (§2.3.2).

An update of K optimizer steps first takes the reference logprobs of all its sequences (the policy is still π_i), then
runs the steps. With K = 1 that pass is left out: there the policy is its own reference, exactly.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist

from megatron_k15.config import TrainConfig
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.layer_specs import uses_transformer_engine
from megatron_k15.models.policy import PolicyModel
from megatron_k15.parallel.context import ParallelContext
from megatron_k15.training.micro_batch import MicroBatch
from megatron_k15.training.optimizer import reset, set_learning_rate
from megatron_k15.training.packing import assign, families, pack_sizes
from megatron_k15.training.policy_objective import PolicyObjective
from megatron_k15.training.trainer import Trainer
from megatron_k15.types import TrainingSequence


class PolicyTrainer(Trainer):
    """Every method is collective over all ranks."""

    config: TrainConfig
    objective: PolicyObjective

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
        super().__init__(
            config,
            PolicyObjective(config=config),
            context,
            chunks,
            dtype=dtype,
            # Needed where it is not reset, and in bf16, where it holds the weights in fp32.
            saves_optimizer=dtype != "fp32" or not config.reset_optimizer,
        )
        self._architecture = architecture
        self._num_iterations = num_iterations
        self._temperature = temperature
        # Transformer Engine's attention knows plain packs only.
        self._share_prompts = config.share_prompts and not uses_transformer_engine(context.platform)

    def start_iteration(self, iteration: int) -> None:
        """The present policy becomes the reference: reset the optimizer, set the learning rate."""
        if self.config.reset_optimizer:
            reset(self.optimizer)
        set_learning_rate(self.optimizer, self.learning_rate(iteration))

    def learning_rate(self, iteration: int) -> float:
        start, end = self.config.learning_rate, self.config.min_learning_rate
        if end is None or self._num_iterations < 2:
            return start
        return start + (end - start) * min(1.0, iteration / (self._num_iterations - 1))

    def update(self, steps: Sequence[Sequence[TrainingSequence]]) -> dict[str, float]:
        """One optimizer step per entry of `steps`. Returns metrics, the same on every rank.

        Raises:
            ModelError: a gradient is not finite; the weights are as before that step.
        """
        plan = [self._micro_batches(sequences, self._temperature) for sequences in steps]
        if len(plan) > 1:
            plan = [self._with_references(batches) for batches in plan]
        norms = []
        sums = torch.zeros(len(self.objective.statistics), dtype=torch.float64)
        for batches in plan:
            of_step, norm = self.step(batches)
            sums += of_step
            norms.append(norm)
        return self._metrics(self.totals(sums), norms)

    def logprobs(self, sequences: Sequence[TrainingSequence], *, temperature: float = 1.0) -> list[list[float]]:
        """log π of every token in each sequence's loss mask, in order; the same lists on every rank."""
        batches = self._micro_batches(sequences, temperature)
        found: dict[int, list[float]] = {}
        for batch, logprobs in zip(batches, self.evaluate(batches, self.objective.logprobs), strict=True):
            if logprobs is not None:
                for owner, source in enumerate(batch.sources):
                    found[source] = logprobs[batch.sequence_N == owner].tolist()
        gathered: list[dict[int, list[float]]] = [{} for _ in range(self.context.world_size)]
        dist.all_gather_object(gathered, found if self.context.tensor_rank == 0 else {})
        merged = {source: values for part in gathered for source, values in part.items()}
        return [merged[index] for index in range(len(sequences))]

    def _with_references(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        references = self.evaluate(batches, self.objective.logprobs)
        return [replace(batch, reference_N=found) for batch, found in zip(batches, references, strict=True)]

    def _micro_batches(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[MicroBatch]:
        context, max_tokens = self.context, self.config.max_tokens_per_micro_batch
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

    def _metrics(self, totals: dict[str, float], norms: Sequence[float]) -> dict[str, float]:
        """Of all steps: the loss is their mean, the gradient norm the largest."""
        found = self.objective.metrics(totals)
        return {
            **found,
            "loss": found["loss"] / max(1, len(norms)),
            "grad_norm": max(norms, default=0.0),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
