"""Each epoch sees each sequence once, in full packs, in an order that follows from the seed."""

from collections import Counter

import numpy as np
import pytest

from megatron_k15.config import DataConfig, PackedPhaseConfig
from megatron_k15.data.packed_plan import PackedPlan
from megatron_k15.errors import DataError

LENGTHS = np.random.default_rng(0).integers(1, 60, 101)


def _plan(*phases: PackedPhaseConfig, seed: int = 0, too_long: str = "error", **options: int) -> PackedPlan:
    lengths = options.pop("lengths", LENGTHS)
    return PackedPlan(lengths, phases, DataConfig(too_long=too_long), seed=seed, **options)  # type: ignore[arg-type]


def _phase(capacity: int, epochs: int = 1, packs: int = 4) -> PackedPhaseConfig:
    return PackedPhaseConfig(sequence_tokens=capacity, num_epochs=epochs, packs_per_step=packs)


def test_an_epoch_ends_exactly_with_its_last_sequence() -> None:
    plan = _plan(_phase(100, epochs=2), _phase(200))
    seen: dict[tuple[int, int], Counter[int]] = {}
    sizes = [len(plan.packs(step)) for step in range(plan.num_steps)]
    for step in range(plan.num_steps):
        place = plan.place(step)
        of_epoch = seen.setdefault((place.phase, place.epoch), Counter())
        for pack in plan.packs(step):
            assert sum(LENGTHS[list(pack)]) <= (100, 200)[place.phase]
            of_epoch.update(pack)
    assert list(seen) == [(0, 0), (0, 1), (1, 0)]
    assert all(count == Counter(range(101)) for count in seen.values())
    assert plan.num_steps == sum(plan.steps_per_phase)
    # Only an epoch's last step may have fewer packs.
    ends = [step for step in range(plan.num_steps - 1) if plan.place(step + 1).step == 0]
    assert all(size == 4 for step, size in enumerate(sizes[:-1]) if step not in ends)


def test_a_step_follows_from_seed_and_number_alone() -> None:
    phase = _phase(100, epochs=2)
    one, other = _plan(phase), _plan(phase)
    backwards = {step: other.packs(step) for step in reversed(range(other.num_steps))}
    assert all(one.packs(step) == backwards[step] for step in range(one.num_steps))
    assert one.packs(0) != _plan(phase, seed=1).packs(0)
    half = one.steps_per_phase[0] // 2
    assert one.packs(0) != one.packs(half)  # the second epoch packs and orders anew


def test_units_are_never_parted() -> None:
    plan = _plan(_phase(150), lengths=LENGTHS[:100], unit_size=2)
    for step in range(plan.num_steps):
        for pack in plan.packs(step):
            assert all(
                first % 2 == 0 and second == first + 1 for first, second in zip(pack[::2], pack[1::2], strict=True)
            )


def test_too_long_is_an_error_or_left_out_of_its_phase_and_told() -> None:
    with pytest.raises(
        DataError, match=r"data: \d+ of 101 are longer than the sequence_tokens of phase 0, 50; .* tokens"
    ):
        _plan(_phase(50), _phase(100))
    plan = _plan(_phase(50), _phase(100), too_long="skip")
    seen = [Counter(), Counter()]
    for step in range(plan.num_steps):
        seen[plan.place(step).phase].update(index for pack in plan.packs(step) for index in pack)
    assert set(seen[0]) == set(np.flatnonzero(LENGTHS <= 50))
    assert set(seen[1]) == set(range(101))
    assert len(plan.left_out) == 1
    with pytest.raises(DataError, match="phase 0 has no data"):
        _plan(_phase(1), lengths=np.array([5, 5]), too_long="skip")
