"""The loss of §2.3.2 against a closed form on a tabular policy, and against plain PyTorch on random data.

Tabular: one problem, each response a single token, policy π = softmax(z). With π_i = softmax(z⁰) and s_j = ln π(y_j) -
ln π_i(y_j), the loss -(1/k) Σ_j [a_j s_j - (τ/2) s_j²] has the gradient

    dL/dz = -(1/k) Σ_j (a_j - τ s_j) (onehot(y_j) - π).
"""

import math
from dataclasses import replace

import pytest
import torch

from megatron_k15.config import TrainConfig
from megatron_k15.errors import ConfigError
from megatron_k15.training.advantages import baseline, training_sequences
from megatron_k15.training.mirror_descent import mirror_descent_loss
from megatron_k15.training.token_logprobs import token_logprobs
from megatron_k15.types import Group, Prompt, Score, Segment, Trajectory, VersionSpan

TAU = 0.3


def test_loss_and_gradient_equal_the_closed_form_on_a_tabular_policy() -> None:
    torch.manual_seed(0)
    num_actions, num_responses = 7, 5
    logits = torch.randn(num_actions, dtype=torch.float64, requires_grad=True)
    start = torch.randn(num_actions, dtype=torch.float64)
    actions = torch.randint(num_actions, (num_responses,))
    advantages = torch.randn(num_responses, dtype=torch.float64)
    # The head: hidden = 1, weight = the logits themselves.
    logprobs = token_logprobs(torch.ones(num_responses, 1, dtype=torch.float64), logits.unsqueeze(1), actions)
    reference = start.log_softmax(0)[actions]
    loss, _ = mirror_descent_loss(
        logprobs,
        torch.arange(num_responses),
        advantages,
        torch.full((num_responses,), 1 / num_responses, dtype=torch.float64),
        tau=TAU,
        reference_N=reference,
    )
    loss.backward()
    policy = logits.detach().softmax(0)
    ratio = policy.log()[actions] - reference
    expected_loss = -(advantages * ratio - TAU / 2 * ratio**2).mean()
    onehot = torch.nn.functional.one_hot(actions, num_actions).double()
    expected = -((advantages - TAU * ratio).unsqueeze(1) * (onehot - policy)).mean(0)
    torch.testing.assert_close(loss.detach(), expected_loss, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(logits.grad, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_loss_and_gradient_equal_plain_pytorch_on_random_data(temperature: float) -> None:
    data = _random_batch()
    ours = _ours(data, temperature)
    hidden, weight = (data[name].clone().requires_grad_() for name in ("hidden", "weight"))
    log_softmax = (hidden @ weight.T / temperature).log_softmax(-1)
    token_logps = log_softmax[torch.arange(len(data["targets"])), data["targets"]]
    loss = torch.zeros((), dtype=torch.float64)
    for sequence in range(len(data["advantages"])):
        ratio = (token_logps - data["reference"])[data["sequence"] == sequence].sum()
        loss = loss - data["weights"][sequence] * (data["advantages"][sequence] * ratio - TAU / 2 * ratio**2)
    loss.backward()
    torch.testing.assert_close(ours["loss"], loss.detach(), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(ours["hidden"], hidden.grad, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(ours["weight"], weight.grad, atol=1e-10, rtol=1e-10)


def test_the_square_of_each_token_is_another_loss() -> None:
    """Σ_t (logp_t - ref_t)² is not (Σ_t (logp_t - ref_t))²: the report means the second, `square="token"` the first."""
    data = _random_batch()
    ours = _ours(data, 1.0)["loss"]
    logps = token_logprobs(data["hidden"], data["weight"], data["targets"])
    ratio = logps - data["reference"]
    weights, advantages = data["weights"][data["sequence"]], data["advantages"][data["sequence"]]
    token_wise = -(weights * (advantages * ratio - TAU / 2 * ratio**2)).sum()
    assert abs(float(token_wise - ours)) > 1e-2
    other = mirror_descent_loss(
        logps,
        data["sequence"],
        data["advantages"],
        data["weights"],
        tau=TAU,
        reference_N=data["reference"],
        square="token",
    )
    torch.testing.assert_close(other.loss, token_wise, atol=1e-10, rtol=1e-10)
    with pytest.raises(ConfigError, match=r"train\.kernels=reference"):
        TrainConfig(square="token")


def test_without_negative_gradients_nothing_is_pushed_away() -> None:
    groups = [_group("a", [1.0, 0.0, 0.0])]
    (both,), _ = training_sequences(groups, TrainConfig(), version=0)
    (positive,), _ = training_sequences(groups, TrainConfig(negative_gradients=False), version=0)
    assert [sequence.advantage for sequence in both] == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert [sequence.advantage for sequence in positive] == pytest.approx([2 / 3, 0.0, 0.0])


def test_without_reference_only_the_gradient_at_s_zero_counts() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64, requires_grad=True)
    loss, ratios = mirror_descent_loss(
        logprobs, torch.tensor([0, 0, 1]), torch.tensor([2.0, -1.0]), torch.tensor([0.5, 0.5]), tau=TAU
    )
    loss.backward()
    assert loss.item() == 0.0
    assert ratios.tolist() == [0.0, 0.0]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-1.0, -1.0, 0.5]


def test_importance_correction_scales_each_tokens_gradient_and_is_truncated() -> None:
    logprobs = torch.tensor([-1.0, -1.0, -3.0], dtype=torch.float64, requires_grad=True)
    behaviour = torch.tensor([-1.0, -4.0, -2.0])
    loss, _ = mirror_descent_loss(
        logprobs,
        torch.tensor([0, 0, 0]),
        torch.tensor([1.0]),
        torch.tensor([1.0]),
        tau=TAU,
        behaviour_N=behaviour,
        importance_clip=2.0,
    )
    loss.backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, -torch.tensor([1.0, 2.0, math.exp(-1.0)], dtype=torch.float64))


def test_log_mean_exp_baseline_is_the_estimate_of_tau_log_z() -> None:
    rewards, tau = [1.0, 0.0, 0.0, 0.5], 0.2
    config = TrainConfig(tau=tau, baseline="log_mean_exp")
    expected = tau * math.log(sum(math.exp(reward / tau) for reward in rewards) / 4)
    assert baseline(rewards, config) == pytest.approx(expected, rel=1e-12)
    assert baseline([1000.0, 999.0], TrainConfig(tau=1e-3, baseline="log_mean_exp")) < 1000.0
    assert baseline(rewards, TrainConfig()) == 0.375


def test_sequences_carry_advantage_weight_and_mask() -> None:
    steps, counts = training_sequences(
        [_group("a", [1.0, 0.0]), _group("b", [1.0, 1.0]), _group("c", [0.0, 1.0]), _group("d", [0.0, 0.0])],
        TrainConfig(steps_per_iteration=2),
        version=0,
    )
    assert counts == {"zero_variance_groups": 2.0, "dropped_groups": 0.0, "num_sequences_left_out": 0.0}
    assert [len(step) for step in steps] == [4, 4]
    first = steps[0][0]
    assert first.token_ids == (5, 6, 7, 8)
    assert first.loss_mask == (False, False, True, True)
    assert first.behaviour_logprobs == (0.0, 0.0, -0.5, -0.25)
    assert (first.advantage, first.weight) == (0.5, 0.25)
    assert sum(sequence.weight for sequence in steps[0]) == 1.0


def test_zero_variance_groups_can_be_dropped_down_to_nothing() -> None:
    steps, counts = training_sequences([_group("a", [1.0, 1.0])], TrainConfig(zero_variance_groups="drop"), version=0)
    assert steps == []
    assert counts["dropped_groups"] == 1.0


def test_segments_of_older_weights_are_left_out_of_the_loss_or_stay_in_it() -> None:
    """Response 0: two tokens of version 2, one of version 3. Response 1, of version 2, ended before: only its reward
    counts, in the baseline."""
    group = _group("a", [1.0, 0.0])
    old = replace(group.trajectories[0].segments[0], versions=(VersionSpan(version=2, start=0, end=2),))
    new = Segment(
        kind="sampled",
        token_ids=(9,),
        logprobs=(-0.75,),
        loss_mask=(True,),
        versions=(VersionSpan(version=3, start=0, end=1),),
    )
    first, second = (replace(trajectory, segments=(old,)) for trajectory in group.trajectories)
    group = replace(group, trajectories=(replace(first, segments=(old, new)), second))
    ((current,),), counts = training_sequences([group], TrainConfig(), version=3)
    assert current.token_ids == (5, 6, 7, 8, 9)
    assert current.loss_mask == (False, False, False, False, True)
    assert current.behaviour_logprobs == (0.0, 0.0, 0.0, 0.0, -0.75)
    assert (current.advantage, current.weight) == (0.5, 0.5)
    assert counts["num_sequences_left_out"] == 1.0
    everything = TrainConfig(loss_segments="all", importance_correction="truncated")
    (both,), counts = training_sequences([group], everything, version=3)
    assert [sum(sequence.loss_mask) for sequence in both] == [3, 2]
    assert both[0].behaviour_logprobs == (0.0, 0.0, -0.5, -0.25, -0.75)
    assert counts["num_sequences_left_out"] == 0.0


def _group(name: str, rewards: list[float]) -> Group:
    segment = Segment(
        kind="sampled",
        token_ids=(7, 8),
        logprobs=(-0.5, -0.25),
        loss_mask=(True, True),
        versions=(VersionSpan(version=0, start=0, end=2),),
    )
    trajectories = tuple(
        Trajectory(
            prompt_id=name, sample_index=index, prompt_token_ids=(5, 6), segments=(segment,), finish_reason="stop"
        )
        for index in range(len(rewards))
    )
    scores = tuple(Score(reward=reward, correct=reward > 0, parts={"answer": reward}) for reward in rewards)
    prompt = Prompt(id=name, token_ids=(5, 6), text="", answer="")
    return Group(prompt=prompt, trajectories=trajectories, scores=scores)


def _random_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    num_tokens, vocabulary, hidden, num_sequences = 23, 31, 8, 4
    return {
        "hidden": random(num_tokens, hidden),
        "weight": random(vocabulary, hidden),
        "targets": torch.randint(vocabulary, (num_tokens,), generator=generator),
        "sequence": torch.randint(num_sequences, (num_tokens,), generator=generator).sort().values,
        "reference": random(num_tokens) - 3,
        "advantages": random(num_sequences),
        "weights": random(num_sequences).abs(),
    }


def _ours(data: dict[str, torch.Tensor], temperature: float) -> dict[str, torch.Tensor]:
    hidden, weight = (data[name].clone().requires_grad_() for name in ("hidden", "weight"))
    logprobs = token_logprobs(hidden, weight, data["targets"], temperature=temperature)
    loss, _ = mirror_descent_loss(
        logprobs, data["sequence"], data["advantages"], data["weights"], tau=TAU, reference_N=data["reference"]
    )
    loss.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return {"loss": loss.detach(), "hidden": hidden.grad, "weight": weight.grad}
