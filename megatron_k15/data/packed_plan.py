"""Which sequences each optimizer step sees: epochs of best-fit packs, in an order that follows from the seed alone.

    phase ─► epoch ─► packs (best fit over the epoch, then shuffled) ─► packs_per_step at a time, the rest last

A step's number is the whole position: nothing else has to be saved, and an epoch ends exactly with its last sequence.
Packs do not depend on the number of ranks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from megatron_k15.config import DataConfig, PackedPhaseConfig
from megatron_k15.errors import DataError
from megatron_k15.kernels.packing import best_fit

Pack = tuple[int, ...]
"""Sequences by number."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Of a step: each number counts from 0 within what stands before it."""

    phase: int
    epoch: int
    step: int
    """Within the epoch."""
    step_of_phase: int


@dataclass(frozen=True, kw_only=True)
class _Phase:
    config: PackedPhaseConfig
    units: np.ndarray
    """Numbers of the units that are not too long for it."""
    steps_per_epoch: int
    fill: float
    """Share of the packs' room that tokens take."""

    @property
    def num_steps(self) -> int:
        return self.steps_per_epoch * self.config.num_epochs


class PackedPlan:
    def __init__(
        self,
        lengths: np.ndarray,
        phases: Sequence[PackedPhaseConfig],
        data: DataConfig,
        *,
        seed: int,
        unit_size: int = 1,
        where: Callable[[int], str] = str,
    ) -> None:
        """
        Args:
            lengths: int64 [S], tokens of each sequence.
            unit_size: so many sequences in a row are never parted: 2 for the answers of a preference.
            where: a sequence comes from, for errors.

        Raises:
            DataError: a sequence is too long for a phase and `data.too_long` is `error`, or a phase has none left.
        """
        self._unit_size = unit_size
        self._seed = seed
        self._where = where
        self._unit_lengths = lengths.reshape(-1, unit_size).sum(1)
        self.left_out: list[str] = []
        """What is too long for a phase, to be told to the user."""
        self._phases = [self._phase(number, config, data) for number, config in enumerate(phases)]
        self._epoch: tuple[tuple[int, int], list[Pack]] | None = None

    @property
    def num_steps(self) -> int:
        return sum(phase.num_steps for phase in self._phases)

    @property
    def steps_per_phase(self) -> list[int]:
        return [phase.num_steps for phase in self._phases]

    def fill(self, phase: int) -> float:
        """Share of the phase's packs that is not empty."""
        return self._phases[phase].fill

    def place(self, step: int) -> Place:
        """Where the run's step number `step` stands."""
        assert 0 <= step < self.num_steps, f"step {step} of {self.num_steps}"
        of_phase = step
        for number, phase in enumerate(self._phases):
            if of_phase < phase.num_steps:
                epoch, in_epoch = divmod(of_phase, phase.steps_per_epoch)
                return Place(phase=number, epoch=epoch, step=in_epoch, step_of_phase=of_phase)
            of_phase -= phase.num_steps
        raise AssertionError("unreachable")

    def packs(self, step: int) -> list[Pack]:
        """Of the run's step number `step`."""
        place = self.place(step)
        size = self._phases[place.phase].config.packs_per_step
        return self._packs_of_epoch(place.phase, place.epoch)[place.step * size : (place.step + 1) * size]

    def packs_of_all(self) -> list[Pack]:
        """Every unit that fits into the longest phase, once, in packs of its size."""
        phase = max(self._phases, key=lambda phase: phase.config.sequence_tokens)
        fitted = best_fit(self._unit_lengths[phase.units].tolist(), phase.config.sequence_tokens)
        return [self._sequences(phase.units[pack]) for pack in fitted]

    def _packs_of_epoch(self, phase: int, epoch: int) -> list[Pack]:
        if self._epoch is None or self._epoch[0] != (phase, epoch):
            units = self._phases[phase].units
            draws = np.random.default_rng([self._seed, phase, epoch])
            shuffled = units[draws.permutation(len(units))]
            fitted = best_fit(self._unit_lengths[shuffled].tolist(), self._phases[phase].config.sequence_tokens)
            packs = [self._sequences(shuffled[fitted[number]]) for number in draws.permutation(len(fitted))]
            self._epoch = ((phase, epoch), packs)
        return self._epoch[1]

    def _sequences(self, units: np.ndarray) -> Pack:
        size = self._unit_size
        return tuple(int(unit) * size + index for unit in units for index in range(size))

    def _phase(self, number: int, config: PackedPhaseConfig, data: DataConfig) -> _Phase:
        capacity = config.sequence_tokens
        units = np.flatnonzero(self._unit_lengths <= capacity)
        self._report_too_long(number, capacity, len(self._unit_lengths) - len(units), data)
        if not len(units):
            raise DataError(f"phase {number} has no data: nothing fits into its sequence_tokens, {capacity}")
        lengths = self._unit_lengths[units]
        # How many packs it takes depends on the lengths alone, not on their order.
        num_packs = len(best_fit(lengths.tolist(), capacity))
        return _Phase(
            config=config,
            units=units,
            steps_per_epoch=-(-num_packs // config.packs_per_step),
            fill=float(lengths.sum() / (num_packs * capacity)),
        )

    def _report_too_long(self, number: int, capacity: int, count: int, data: DataConfig) -> None:
        if not count:
            return
        longest = int(self._unit_lengths.argmax())
        found = (
            f"{count} of {len(self._unit_lengths)} are longer than the sequence_tokens of phase {number}, {capacity}; "
            f"the longest, {self._where(longest * self._unit_size)}, has {self._unit_lengths[longest]} tokens"
        )
        if data.too_long == "error":
            raise DataError(f"data: {found}; raise sequence_tokens, or leave them out with data.too_long=skip")
        self.left_out.append(found)
