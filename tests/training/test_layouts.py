"""Parallelism is invisible to the maths: every layout gives the gradients of one dense, padded process.

The reference is transformers with autograd over a padded batch: another model code, no packing, no parallelism. With
plain SGD the weights after a step are θ - lr·g and must agree as the gradients do; Adam's first step after a reset is
nearly lr·sign(g), where a gradient near zero may flip its sign, so weights are only bound to 2·lr.
"""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_k15.types import TrainingSequence
from tests.conftest import VOCAB_SIZE, make_tiny_model
from tests.models.tiny_models import build
from tests.training.layout_ranks import LEARNING_RATE
from tests.training.layouts import TAU, run_layouts
from tests.training.sample_data import random_sequences

Outcome = tuple[Path, dict[str, dict]]


@pytest.fixture(scope="module", params=["llama", "llama, tied", "qwen2", "qwen3, tied"])
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A model and what every layout made of it; the three other models run under the layouts of four ranks."""
    if request.param == "llama":
        return request.getfixturevalue("tiny_model_dir"), request.getfixturevalue("layout_results")
    directory = tmp_path_factory.mktemp("layouts")
    if request.param == "llama, tied":
        model = make_tiny_model(directory / "model", tied=True)
    else:
        family, tied = request.param.split(",")[0], "tied" in request.param
        model = build(directory / "model", family, tied=tied, vocab_size=VOCAB_SIZE, num_layers=4)
    return model, run_layouts(model, directory, num_ranks=(4,))


def test_gradients_and_sgd_weights_equal_the_dense_reference(outcome: Outcome) -> None:
    model_dir, found = outcome
    expected = _reference(model_dir, random_sequences(7, vocab_size=VOCAB_SIZE))
    checked = [name for name in found if "two-steps" not in name]
    assert len(checked) >= 4, "two layouts with plain SGD at least"
    for name in checked:
        # The distributed optimizer leaves each rank only its own shard of the reduced gradient.
        if "adam" not in name:
            _assert_close(found[name]["gradients"], expected["gradients"], 1e-5, f"{name}: gradient")
            moved = {key: value - expected["start"][key] for key, value in found[name]["weights"].items()}
            step = {key: -LEARNING_RATE * value for key, value in expected["gradients"].items()}
            # θ' - θ has lost the digits that fp32 cannot hold beside θ.
            for key in step:
                assert (moved[key] - step[key]).abs().max() < 1e-6, f"{name}: weight after a step, {key}"


def test_the_gradient_norm_is_that_of_the_whole_model(outcome: Outcome) -> None:
    """By which gradients are clipped: a split weight counts with all of its parts, a repeated one once."""
    model_dir, found = outcome
    gradients = _reference(model_dir, random_sequences(7, vocab_size=VOCAB_SIZE))["gradients"]
    expected = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
    for name in (name for name in found if "two-steps" not in name):
        assert found[name]["metrics"]["grad_norm"] == pytest.approx(expected, rel=1e-5), name


def test_adam_weights_differ_by_less_than_two_steps(outcome: Outcome) -> None:
    model_dir, found = outcome
    expected = _reference(model_dir, random_sequences(7, vocab_size=VOCAB_SIZE))
    names = [name for name in found if "adam" in name]
    assert names
    for name in names:
        for key, weight in found[name]["weights"].items():
            gradient = expected["gradients"][key]
            first_step = expected["start"][key] - LEARNING_RATE * gradient.sign()
            difference = (weight - first_step).abs()
            assert difference.max() <= 2.01 * LEARNING_RATE, f"{name}: {key}"
            clear = gradient.abs() > 1e-4  # far above eps and rounding: here the sign is sure
            assert difference[clear].max() < 2e-3 * LEARNING_RATE, f"{name}: {key}"


def test_logprobs_equal_the_dense_reference(outcome: Outcome) -> None:
    model_dir, found = outcome
    expected = _reference(model_dir, random_sequences(7, vocab_size=VOCAB_SIZE))["logprobs"]
    for name, result in found.items():
        for ours, theirs in zip(result["logprobs"], expected, strict=True):
            torch.testing.assert_close(torch.tensor(ours), theirs, atol=2e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("outcome", ["llama"], indirect=True)
def test_several_steps_agree_between_layouts(outcome: Outcome) -> None:
    """Two optimizer steps against the iteration's reference: the second one's s is not zero."""
    _, found = outcome
    dense, split = found["1x1x1-two-steps"], found["1x2x1-two-steps"]
    assert abs(dense["metrics"]["log_ratio_mean"]) > 1e-6
    _assert_close(split["gradients"], dense["gradients"], 1e-5, "second step's gradient")
    assert split["metrics"]["log_ratio_mean"] == pytest.approx(dense["metrics"]["log_ratio_mean"], rel=1e-3)


def _reference(model_dir: Path, sequences: list[TrainingSequence]) -> dict:
    """One padded batch through transformers; loss -Σ w a s with s's gradient at s = 0, by autograd."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager")
    longest = max(len(sequence.token_ids) for sequence in sequences)
    tokens = torch.tensor([[*s.token_ids, *[0] * (longest - len(s.token_ids))] for s in sequences])
    mask = torch.tensor([[*s.loss_mask, *[False] * (longest - len(s.token_ids))] for s in sequences])[:, 1:]
    attention = torch.tensor([[1] * len(s.token_ids) + [0] * (longest - len(s.token_ids)) for s in sequences])
    logits = model(tokens, attention_mask=attention).logits[:, :-1]
    logprobs = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    ratio = ((logprobs - logprobs.detach()) * mask).sum(-1)
    advantages = torch.tensor([s.advantage for s in sequences])
    weights = torch.tensor([s.weight for s in sequences])
    start = {name: value.detach().clone() for name, value in model.state_dict().items()}
    (-(weights * (advantages * ratio - TAU / 2 * ratio**2)).sum()).backward()
    return {
        "start": start,
        "gradients": {name: value.grad for name, value in model.named_parameters()},
        "logprobs": [row[seen].detach() for row, seen in zip(logprobs, mask, strict=True)],
    }


def _assert_close(found: dict, expected: dict, tolerance: float, what: str) -> None:
    assert set(found) == set(expected), what
    for name, value in expected.items():
        error = (found[name] - value).norm() / value.norm().clamp(min=1e-12)
        assert error <= tolerance, f"{what} {name}: relative error {error:.2e}"
