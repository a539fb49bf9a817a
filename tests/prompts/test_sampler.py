"""Which prompts are drawn: epochs, curriculum, ∝ 1 − s, and a resumed sampler that goes on as if nothing had been."""

import json
from collections import Counter

import pytest

from megatron_k15.config import PromptConfig
from megatron_k15.errors import CheckpointError, ConfigError
from megatron_k15.prompts.sampler import PromptSampler
from megatron_k15.types import Prompt

UNIFORM = PromptConfig(files=("x.jsonl",))
PRIORITIZED = PromptConfig(files=("x.jsonl",), prioritized=True, success_rate_momentum=1.0)
CURRICULUM = PromptConfig(files=("x.jsonl",), curriculum=True, curriculum_transition_iteration=3)


def prompts(count: int, *, difficulties: tuple[float | None, ...] = (None,)) -> list[Prompt]:
    return [
        Prompt(id=f"p{index}", token_ids=(1,), text="", answer="", difficulty=difficulties[index % len(difficulties)])
        for index in range(count)
    ]


def ids(drawn: list[Prompt]) -> list[str]:
    return [prompt.id for prompt in drawn]


def test_every_prompt_is_drawn_once_per_epoch_and_never_twice_in_an_iteration() -> None:
    sampler = PromptSampler(prompts(10), UNIFORM, seed=0)
    drawn = [ids(sampler.sample(4, iteration)) for iteration in range(25)]
    assert all(len(set(iteration)) == 4 for iteration in drawn)
    in_order = [prompt_id for iteration in drawn for prompt_id in iteration]
    epochs = [in_order[start : start + 10] for start in range(0, 100, 10)]
    assert all(len(set(epoch)) == 10 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10, "epochs must be in different orders"


def test_the_curriculum_turns_to_hard_prompts_at_its_transition() -> None:
    everything = prompts(12, difficulties=(0.1, 0.5, None, 0.9))
    sampler = PromptSampler(everything, CURRICULUM, seed=0)
    before = {prompt.difficulty for iteration in range(3) for prompt in sampler.sample(4, iteration)}
    assert before == {0.1, 0.5, None, 0.9}
    after = Counter(prompt_id for iteration in range(3, 6) for prompt_id in ids(sampler.sample(4, iteration)))
    assert set(after) == {prompt.id for prompt in everything if prompt.difficulty in (0.5, 0.9)}


def test_prompts_are_drawn_in_proportion_to_one_minus_s() -> None:
    """χ² over 20,000 single draws against w_i/Σw; 4 degrees of freedom, so P(χ² > 18.47) = 0.001 (table value).
    One draw per call: with several, without replacement, the shares are no longer exactly proportional."""
    rates = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
    sampler = PromptSampler(prompts(len(rates)), PRIORITIZED, seed=0)
    for index, rate in enumerate(rates):
        sampler.record(f"p{index}", rate)
    num_draws = 20_000
    counts = Counter(sampler.sample(1, 0)[0].id for _ in range(num_draws))
    total = sum(1 - rate for rate in rates)
    expected = [num_draws * (1 - rate) / total for rate in rates]
    chi_square = sum((counts[f"p{i}"] - value) ** 2 / value for i, value in enumerate(expected) if value)
    assert chi_square < 18.47
    assert counts["p5"] == 0, "a solved problem has no weight"


def test_draws_of_one_iteration_are_successive_draws_without_replacement() -> None:
    """For weights (1, 1/2, 1/2) and two draws, P(the first is left out) = 2·(1/4)·(½/1.5) = 1/6."""
    sampler = PromptSampler(prompts(3), PRIORITIZED, seed=0)
    sampler.record("p1", 0.5)
    sampler.record("p2", 0.5)
    num_draws = 20_000
    without = sum("p0" not in ids(sampler.sample(2, 0)) for _ in range(num_draws))
    deviation = (num_draws * (1 / 6) * (5 / 6)) ** 0.5
    assert abs(without - num_draws / 6) < 4 * deviation


def test_success_rates_move_with_momentum_from_zero() -> None:
    config = PromptConfig(files=("x.jsonl",), prioritized=True, success_rate_momentum=0.25)
    sampler = PromptSampler(prompts(2), config, seed=0)
    sampler.record("p0", 1.0)
    assert sampler.state()["success_rates"] == {"p0": 0.25}
    sampler.record("p0", 0.5)
    assert sampler.state()["success_rates"] == {"p0": 0.25 + 0.25 * (0.5 - 0.25)}


def test_when_everything_is_solved_prompts_are_drawn_alike() -> None:
    sampler = PromptSampler(prompts(4), PRIORITIZED, seed=0)
    for index in range(4):
        sampler.record(f"p{index}", 1.0)
    counts = Counter(prompt_id for _ in range(4_000) for prompt_id in ids(sampler.sample(2, 0)))
    assert all(abs(count - 2_000) < 4 * (4_000 * 0.25) ** 0.5 for count in counts.values()), counts
    sampler.record("p3", 0.0)
    assert all(ids(sampler.sample(2, 0))[0] == "p3" for _ in range(50)), "an unsolved one comes first"


def test_curriculum_and_priority_combine() -> None:
    config = PromptConfig(
        files=("x.jsonl",),
        prioritized=True,
        success_rate_momentum=1.0,
        curriculum=True,
        curriculum_transition_iteration=1,
    )
    sampler = PromptSampler(prompts(4, difficulties=(0.1, 0.9)), config, seed=0)
    sampler.record("p1", 1.0)
    assert {prompt_id for _ in range(100) for prompt_id in ids(sampler.sample(1, 0))} == {"p0", "p2", "p3"}
    assert {prompt_id for _ in range(100) for prompt_id in ids(sampler.sample(1, 1))} == {"p3"}


@pytest.mark.parametrize("config", [UNIFORM, PRIORITIZED, CURRICULUM], ids=["uniform", "prioritized", "curriculum"])
@pytest.mark.parametrize("stop", range(6))
def test_a_resumed_sampler_continues_as_the_uninterrupted_one(config: PromptConfig, stop: int) -> None:
    everything = prompts(9, difficulties=(0.1, 0.9, 0.6))

    def iterate(sampler: PromptSampler, start: int, end: int) -> list[list[str]]:
        drawn = []
        for iteration in range(start, end):
            drawn.append(ids(sampler.sample(4, iteration)))
            for position, prompt_id in enumerate(drawn[-1]):
                sampler.record(prompt_id, position / 4)
        return drawn

    uninterrupted = iterate(PromptSampler(everything, config, seed=3), 0, 6)
    first = PromptSampler(everything, config, seed=3)
    drawn = iterate(first, 0, stop)
    resumed = PromptSampler(everything, config, seed=99)
    resumed.load_state(json.loads(json.dumps(first.state())))
    assert drawn + iterate(resumed, stop, 6) == uninterrupted


def test_a_state_of_other_prompts_is_refused() -> None:
    state = PromptSampler(prompts(3), UNIFORM, seed=0).state()
    with pytest.raises(CheckpointError, match=r"prompt set \(3 prompts, .*\) is not this run's \(4 prompts"):
        PromptSampler(prompts(4), UNIFORM, seed=0).load_state(state)


def test_too_few_prompts_are_said_before_the_run() -> None:
    with pytest.raises(ConfigError, match="iteration 0 needs 5 different prompts; the training set has 4"):
        PromptSampler(prompts(4), UNIFORM, seed=0, num_per_iteration=5)
    with pytest.raises(
        ConfigError, match="iteration 3 needs 3 different prompts; the training set has 2 with a difficulty"
    ):
        PromptSampler(prompts(4, difficulties=(0.1, 0.9)), CURRICULUM, seed=0, num_per_iteration=3)
    sampler = PromptSampler(prompts(4), UNIFORM, seed=0)
    with pytest.raises(ConfigError, match="needs 5 different prompts"):
        sampler.sample(5, 0)
