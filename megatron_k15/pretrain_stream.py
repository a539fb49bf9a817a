"""What each step of pretraining trains on: sequences of its phase's blend, dealt over the data-parallel ranks."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.distributed as dist

from megatron_k15.config import PretrainConfig
from megatron_k15.data.blend import Blend
from megatron_k15.data.indexed import IndexedFacts, check_indexed
from megatron_k15.planned_step import PlannedStep
from megatron_k15.stage_parts import Stage
from megatron_k15.training.micro_batch import MicroBatch
from megatron_k15.training.schedule import last_rate, learning_rate
from megatron_k15.training.supervised_batches import supervised_batches
from megatron_k15.types import TrainingSequence

CHANGES_NOTHING = ("sequences_per_micro_batch",)
"""Fields of a phase that a run may go on with another value of."""

INDEX_CACHE = "index_cache"
"""megatron-core's index files, inside the run's folder."""


class PretrainStream:
    """Every token of a step's loss has the same weight. Each phase's blend is made when its first step comes."""

    def __init__(self, stage: Stage, config: PretrainConfig, *, end_of_document: int) -> None:
        """
        Raises:
            DataError: an index that does not fit its data, of any phase.
        """
        self._stage = stage
        self._config = config
        self._phases = config.phases
        self._end_of_document = end_of_document
        self._facts = self._check_all()
        self._blend: tuple[int, Blend] | None = None
        self._rates_before = [0.0]
        for phase in self._phases:
            self._rates_before.append(last_rate(phase, phase.num_steps, before=self._rates_before[-1]))

    @property
    def num_steps(self) -> int:
        return sum(phase.num_steps for phase in self._phases)

    def step(self, number: int) -> PlannedStep:
        phase_number, of_phase = self._place(number)
        phase = self._phases[phase_number]
        first = of_phase * phase.sequences_per_step
        batches = self._batches(phase_number, range(first, first + phase.sequences_per_step))
        rate = learning_rate(phase, of_phase, phase.num_steps, before=self._rates_before[phase_number])
        shown = {
            "data/phase": phase_number,
            "data/sequence_tokens": phase.sequence_tokens,
            "data/num_tokens": phase.sequences_per_step * phase.sequence_tokens,
            "data/epochs": first * phase.sequence_tokens / sum(self._facts[mix.path].num_tokens for mix in phase.data),
        }
        return PlannedStep(
            batches, rate, {name: float(value) for name, value in shown.items()}, self.rope_theta(phase_number)
        )

    def rope_theta(self, phase: int) -> float | None:
        """The base that the phases up to this one have set last."""
        given = [one.rope_theta for one in self._phases[: phase + 1] if one.rope_theta is not None]
        return given[-1] if given else None

    def identity(self, step: int) -> dict[str, Any]:
        last = self._place(max(0, step - 1))[0]
        phases = self._phases[: last + 1]
        return {
            "data": {mix.path: self._facts[mix.path].fingerprint for phase in phases for mix in phase.data},
            "phases": [{**asdict(phase), **dict.fromkeys(CHANGES_NOTHING)} for phase in phases],
        }

    def _check_all(self) -> dict[str, IndexedFacts]:
        """Collective: rank 0 reads the indices."""
        found: list[dict[str, IndexedFacts]] = [{}]
        if self._stage.context.rank == 0:
            paths = sorted({mix.path for phase in self._phases for mix in phase.data})
            found = [{path: check_indexed(path) for path in paths}]
            for path, facts in found[0].items():
                self._stage.progress.say(f"{path}: {facts.num_documents:,} documents, {facts.num_tokens:,} tokens")
        dist.broadcast_object_list(found, src=0)
        return found[0]

    def _place(self, step: int) -> tuple[int, int]:
        """(phase, step within it)."""
        for number, phase in enumerate(self._phases):
            if step < phase.num_steps:
                return number, step
            step -= phase.num_steps
        raise AssertionError(f"{step} steps beyond the last phase")

    def _batches(self, phase_number: int, numbers: Sequence[int]) -> list[MicroBatch]:
        phase, blend = self._phases[phase_number], self._blend_of(phase_number)
        together = phase.sequences_per_micro_batch
        batches = supervised_batches(
            [numbers[first : first + together] for first in range(0, len(numbers), together)],
            lengths=lambda pack: [phase.sequence_tokens] * len(pack),
            sequences=lambda pack: [(number, _sequence(piece)) for number in pack for piece in blend.pieces(number)],
            context=self._stage.context,
            architecture=self._stage.architecture,
        )
        # How many tokens are predicted depends on the documents, and only their own rank has seen them.
        count = torch.tensor(sum(len(batch.targets_N) for batch in batches), device=self._stage.context.platform.device)
        dist.all_reduce(count, group=self._stage.context.groups.dp)
        return [replace(batch, weights_S=batch.weights_S / count) for batch in batches]

    def _blend_of(self, number: int) -> Blend:
        if self._blend is None or self._blend[0] != number:
            phase = self._phases[number]
            fingerprint = "_".join(self._facts[mix.path].fingerprint[:8] for mix in phase.data)
            with self._stage.progress.phase(f"indexing the data of phase {number}"):
                blend = Blend(
                    phase.data,
                    num_sequences=phase.num_steps * phase.sequences_per_step,
                    sequence_tokens=phase.sequence_tokens,
                    end_of_document=self._end_of_document,
                    vocab_size=self._stage.architecture.vocab_size,
                    seed=self._config.seed + number,
                    cache_dir=self._stage.run_dir / INDEX_CACHE / fingerprint[:200],
                )
            self._blend = (number, blend)
        return self._blend[1]


def _sequence(tokens: tuple[int, ...]) -> TrainingSequence:
    return TrainingSequence(
        token_ids=tokens,
        loss_mask=(False,) + (True,) * (len(tokens) - 1),
        behaviour_logprobs=(0.0,) * len(tokens),
    )
