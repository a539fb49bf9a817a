"""What each step of a packed stage trains on: its packs as this rank's micro-batches, its learning rate, its place."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from megatron_k15.config import PackedPhaseConfig
from megatron_k15.data.packed_plan import Pack, PackedPlan
from megatron_k15.data.token_file import TokenFile
from megatron_k15.models.architecture import Architecture
from megatron_k15.parallel.context import ParallelContext
from megatron_k15.training.micro_batch import MicroBatch
from megatron_k15.training.schedule import last_rate, learning_rate
from megatron_k15.training.supervised_batches import supervised_batches
from megatron_k15.types import TrainingSequence


class PlannedStep(NamedTuple):
    batches: list[MicroBatch]
    """This rank's."""
    learning_rate: float
    shown: dict[str, float]
    """For the metrics."""


class PackedStream:
    """Every token of a step's loss has the same weight, whatever sequence it is in."""

    def __init__(
        self,
        tokens: TokenFile,
        plan: PackedPlan,
        phases: Sequence[PackedPhaseConfig],
        *,
        context: ParallelContext,
        architecture: Architecture,
    ) -> None:
        self._tokens = tokens
        self._plan = plan
        self._phases = phases
        self._context = context
        self._architecture = architecture
        self._lengths = tokens.lengths
        self._rates_before = [0.0]
        for phase, num_steps in zip(phases, plan.steps_per_phase, strict=True):
            self._rates_before.append(last_rate(phase, num_steps, before=self._rates_before[-1]))

    @property
    def num_steps(self) -> int:
        return self._plan.num_steps

    def step(self, number: int) -> PlannedStep:
        place, packs = self._plan.place(number), self._plan.packs(number)
        phase = self._phases[place.phase]
        rate = learning_rate(
            phase,
            place.step_of_phase,
            self._plan.steps_per_phase[place.phase],
            before=self._rates_before[place.phase],
        )
        num_tokens = int(sum(self._lengths[list(pack)].sum() for pack in packs))
        shown = {
            "data/phase": place.phase,
            "data/epoch": place.epoch,
            "data/num_tokens": num_tokens,
            "data/num_packs": len(packs),
            "data/fill": num_tokens / (len(packs) * phase.sequence_tokens),
        }
        return PlannedStep(self._batches(packs), rate, {name: float(value) for name, value in shown.items()})

    def identity(self, step: int) -> dict[str, Any]:
        """What a run that goes on at `step` must find again: everything that decided the steps before it."""
        last = self._plan.place(max(0, step - 1)).phase
        return {
            "data": self._tokens.facts["fingerprint"],
            "phases": [asdict(phase) for phase in self._phases[: last + 1]],
        }

    def _batches(self, packs: Sequence[Pack]) -> list[MicroBatch]:
        weight = 1.0 / sum(int(self._tokens.loss_tokens[list(pack)].sum()) for pack in packs)

        def sequence(number: int) -> TrainingSequence:
            return self._tokens.sequence(number, weight=weight)

        return supervised_batches(
            packs,
            lambda number: int(self._lengths[number]),
            sequence,
            context=self._context,
            architecture=self._architecture,
        )
