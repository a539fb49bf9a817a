"""What each step of a packed stage trains on: its packs as this rank's micro-batches, its learning rate, its place."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from megatron_k15.config import PackedStageConfig
from megatron_k15.data.packed_plan import Pack, PackedPlan
from megatron_k15.data.token_file import TokenFile
from megatron_k15.planned_step import PlannedStep
from megatron_k15.stage_parts import Stage
from megatron_k15.training.micro_batch import MicroBatch
from megatron_k15.training.schedule import last_rate, learning_rate
from megatron_k15.training.supervised_batches import supervised_batches
from megatron_k15.types import TrainingSequence


class PackedStream:
    """Steps of whole units: sequences, or pairs of them."""

    def __init__(self, tokens: TokenFile, stage: Stage, config: PackedStageConfig, *, unit_size: int, per_token: bool):
        """
        Args:
            unit_size: so many sequences in a row are never parted: 2 for the answers of a preference.
            per_token: every token of a step's loss has the same weight, whatever unit it is in; else every unit has.

        Raises:
            DataError: a unit is too long for a phase and `data.too_long` is `error`, or a phase has none left.
        """
        self._tokens = tokens
        self._stage = stage
        self._phases = config.phases
        self._unit_size = unit_size
        self._per_token = per_token
        self._lengths = tokens.lengths
        self._references: np.ndarray | None = None
        self._reference_fingerprint = ""
        self._plan = PackedPlan(
            self._lengths, config.phases, config.data, seed=config.seed, unit_size=unit_size, where=tokens.where
        )
        self._rates_before = [0.0]
        for phase, num_steps in zip(config.phases, self._plan.steps_per_phase, strict=True):
            self._rates_before.append(last_rate(phase, num_steps, before=self._rates_before[-1]))
        for text in self._plan.left_out:
            stage.progress.say(f"left out: {text}")

    def set_references(self, references: np.ndarray, fingerprint: str) -> None:
        """
        Args:
            references: float32 [S], what DPO's reference model makes of each sequence.
            fingerprint: of data and reference model; a run goes on with the same ones only.
        """
        self._references = references
        self._reference_fingerprint = fingerprint

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
        return PlannedStep(self.batches(packs), rate, {name: float(value) for name, value in shown.items()})

    def packs_of_all(self) -> list[Pack]:
        """Every unit that any phase trains on, once."""
        return self._plan.packs_of_all()

    def identity(self, step: int) -> dict[str, Any]:
        """What a run that goes on at `step` must find again: everything that decided the steps before it."""
        last = self._plan.place(max(0, step - 1)).phase
        return {
            "data": self._tokens.facts["fingerprint"],
            "reference model": self._reference_fingerprint,
            "phases": [asdict(phase) for phase in self._phases[: last + 1]],
        }

    def batches(self, packs: Sequence[Pack]) -> list[MicroBatch]:
        """This rank's part of any packs, weighted as one step."""
        weight = self._weight(packs)

        def sequence(number: int) -> TrainingSequence:
            reference = 0.0 if self._references is None else float(self._references[number])
            return self._tokens.sequence(number, weight=weight, reference=reference)

        return supervised_batches(
            packs,
            lengths=lambda pack: self._lengths[list(pack)].tolist(),
            sequences=lambda pack: [(number, sequence(number)) for number in pack],
            context=self._stage.context,
            architecture=self._stage.architecture,
        )

    def _weight(self, packs: Sequence[Pack]) -> float:
        if self._per_token:
            return 1.0 / sum(int(self._tokens.loss_tokens[list(pack)].sum()) for pack in packs)
        return self._unit_size / sum(len(pack) for pack in packs)
