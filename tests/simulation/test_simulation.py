"""The model against cases that can be worked out by hand."""

import random
import statistics

import pytest

from megatron_k15.errors import ConfigError
from megatron_k15.simulation.decoding import DecodeSpeed, Work, decode
from megatron_k15.simulation.iteration import Setup, Speeds, simulate, tokens_per_second
from megatron_k15.simulation.lengths import LengthDistribution

SPEED = DecodeSpeed(step_seconds=1.0, step_seconds_per_sequence=0.5, prefill_seconds_per_token=0.0)


def _decode(lengths: list[int], *, instances: int = 1, concurrent: int = 10, speed: DecodeSpeed = SPEED):
    work = [Work(num_read=3, num_made=length) for length in lengths]
    return decode(work, speed, num_instances=instances, max_concurrent=concurrent)


def test_a_step_costs_more_with_more_sequences() -> None:
    """2 and 5 tokens: two steps of two sequences (2 s each), then three of one (1.5 s each)."""
    decoded = _decode([2, 5])
    assert decoded.seconds == pytest.approx(2 * 2.0 + 3 * 1.5)
    assert decoded.utilisation == pytest.approx((2 * 2.0 * 2 + 3 * 1.5) / (2 * 8.5))


def test_what_does_not_fit_waits_for_a_place() -> None:
    """One place: one after another. Two instances with one place each: the third goes where a place is free first."""
    assert _decode([2, 4, 3], concurrent=1).seconds == pytest.approx(9 * 1.5)
    assert _decode([2, 4, 3], concurrent=1, instances=2).seconds == pytest.approx(5 * 1.5)


def test_reading_a_prompt_holds_its_instance() -> None:
    speed = DecodeSpeed(step_seconds=1.0, step_seconds_per_sequence=0.5, prefill_seconds_per_token=2.0)
    assert _decode([2, 5], speed=speed).seconds == pytest.approx(2 * 3 * 2.0 + 8.5)


def _setup(budget: int | None, sigma: float = 0.0, **changes: float) -> Setup:
    lengths = LengthDistribution(median_tokens=10, sigma=sigma, max_tokens=100, **changes)
    return Setup(
        prompts_per_iteration=8,
        responses_per_prompt=2,
        prompt_tokens=4,
        lengths=lengths,
        budget_tokens=budget,
        max_concurrent=64,
    )


SPEEDS = Speeds(decode=SPEED, train_seconds_per_token=0.01, train_seconds=1.0, transfer_seconds=3.0)


def test_an_iteration_without_a_budget_is_rollout_training_and_transfer() -> None:
    """16 responses of 10 tokens: ten steps of 9 s; 16 x 14 tokens trained."""
    (iteration,) = simulate(_setup(None), SPEEDS, num_iterations=1)
    assert iteration.rollout_seconds == pytest.approx(10 * 9.0)
    assert iteration.train_seconds == pytest.approx(1.0 + 16 * 14 * 0.01)
    assert iteration.seconds == pytest.approx(90.0 + 3.24 + 3.0)
    assert (iteration.complete_groups, iteration.sampled_tokens, iteration.utilisation) == (8, 160, 1.0)


def test_a_budget_spreads_responses_over_iterations() -> None:
    """10 tokens at 4 per iteration: the first prompts are complete after three iterations, later ones one by one."""
    iterations = simulate(_setup(4), SPEEDS, num_iterations=4)
    assert [iteration.complete_groups for iteration in iterations] == [0, 0, 8, 8]
    assert [iteration.sampled_tokens for iteration in iterations] == [64, 128, 160, 160]
    assert iterations[0].train_seconds == 0.0


def test_under_a_long_tail_a_budget_is_faster() -> None:
    """A few responses at ten times the median: without a budget they alone keep vLLM busy at the end."""
    tail = {"sigma": 0.5, "share_at_max": 0.05}
    whole = simulate(_setup(None, **tail), SPEEDS, num_iterations=40)
    parts = simulate(_setup(16, **tail), SPEEDS, num_iterations=40)
    assert tokens_per_second(parts) > 1.2 * tokens_per_second(whole)
    assert parts[-1].utilisation > whole[-1].utilisation


def test_instances_on_the_same_devices_are_slower_together() -> None:
    setup = _setup(None)
    alone = simulate(setup, SPEEDS, num_iterations=1)[0].rollout_seconds
    both = simulate(Setup(**{**vars(setup), "num_instances": 2, "shares_devices": True}), SPEEDS, num_iterations=1)[
        0
    ].rollout_seconds
    assert both == pytest.approx(10 * 2 * (1.0 + 8 * 0.5))
    assert alone == pytest.approx(90.0)


def test_lengths_follow_their_distribution_and_its_limits() -> None:
    rng = random.Random(0)
    lengths = LengthDistribution(median_tokens=50, sigma=0.8, max_tokens=400, share_at_max=0.1)
    drawn = [lengths.draw(rng) for _ in range(4000)]
    assert min(drawn) >= 1
    assert max(drawn) == 400
    assert 0.1 < sum(length == 400 for length in drawn) / len(drawn) < 0.13
    assert statistics.median(drawn) == pytest.approx(55, rel=0.15)
    with pytest.raises(ConfigError, match="share in"):
        LengthDistribution(median_tokens=50, sigma=0.8, max_tokens=400, share_at_max=1.5)


class Drawn:
    """Lengths in a given order."""

    max_tokens = 100

    def __init__(self, *lengths: int) -> None:
        self._left = list(lengths)

    def draw(self, rng: random.Random) -> int:
        return self._left.pop(0)


def test_a_response_that_ended_earlier_is_not_trained_on() -> None:
    """Of the first group, 10 tokens end in the first iteration and 60 in the second: the second trains on the latter,
    and on a second group of 5 and 5."""
    setup = Setup(
        prompts_per_iteration=1,
        responses_per_prompt=2,
        prompt_tokens=4,
        lengths=Drawn(10, 60, 5, 5),  # type: ignore[arg-type]
        budget_tokens=50,
        max_concurrent=64,
    )
    first, second = simulate(setup, SPEEDS, num_iterations=2)
    assert (first.complete_groups, first.train_seconds) == (0, 0.0)
    assert second.complete_groups == 2
    assert second.train_seconds == pytest.approx(1.0 + (4 + 60 + 2 * (4 + 5)) * 0.01)
