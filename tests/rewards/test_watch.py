"""The watch over rewards: silent on a quiet run, and each sign of hacking is named once."""

import random

from megatron_k15.rewards.watch import RewardWatch
from megatron_k15.types import Group, Prompt, Score, Trajectory


def _group(name: str, texts: list[str], reward: float) -> Group:
    return Group(
        prompt=Prompt(id=name, token_ids=(1,), text="", answer=""),
        trajectories=tuple(
            Trajectory(
                prompt_id=name, sample_index=i, prompt_token_ids=(1,), segments=(), finish_reason="stop", text=text
            )
            for i, text in enumerate(texts)
        ),
        scores=tuple(Score(reward=reward, correct=reward > 0.5, parts={"answer": reward}) for _ in texts),
    )


def _quiet(watch: RewardWatch, count: int) -> None:
    rng = random.Random(0)
    for iteration in range(count):
        groups = [_group(f"p{i}", [f"{iteration} {i} {j} \\boxed{{1}}" for j in range(2)], 0.4) for i in range(4)]
        groups.append(_group("q", ["a", "b"], 0.4 + rng.uniform(-0.1, 0.1)))
        watch.look(groups, num_asked=10, num_parted=1)


def test_a_quiet_run_gives_no_warning() -> None:
    said: list[str] = []
    _quiet(RewardWatch(said.append), 30)
    assert said == []


def test_a_reward_that_jumps_is_named_once() -> None:
    said: list[str] = []
    watch = RewardWatch(said.append)
    _quiet(watch, 10)
    for _ in range(2):
        watch.look([_group(f"p{i}", [f"{i} x", f"{i} y"], 1.0) for i in range(4)])
    assert len(said) == 1
    assert "drift is" in said[0]


def test_odd_answers_duplicates_and_disagreement_are_named() -> None:
    said: list[str] = []
    watch = RewardWatch(said.append)
    texts = ["\\boxed{1} \\boxed{2}", "so <answer>1</answer> or <answer>2</answer>"]
    groups = [_group("a", texts, 0.5), _group("b", ["0" * 40, "same"], 0.5), _group("c", ["same", "same"], 0.5)]
    values = watch.look(groups)
    assert values["several_answers"] == 2 / 6
    assert values["repeated_characters"] == 1 / 6
    assert values["duplicates"] == 3 / 6, "given to two problems, three times"
    assert [line.split(" is ")[0].split("watch: ")[1] for line in said] == ["several answers", "duplicates"]
    watch.look(groups)
    assert len(said) == 2, "each once, while it lasts"
    values = watch.look([_group("a", ["x"], 0.5)], num_asked=10, num_parted=5)
    assert values["disagreement"] == 0.5
    assert "disagreement is 0.50, above 0.2" in said[-1]


def test_nothing_to_look_at() -> None:
    assert RewardWatch(print).look([]) == {}
