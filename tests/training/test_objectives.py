"""Cross entropy, DPO and the reward model: loss, gradients and one SGD step, against transformers and plain PyTorch.

The reference runs every sequence by itself, without packing or parallelism, and differentiates by autograd. With SGD
the weights after a step are θ - lr·g.
"""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from megatron_k15.loaded_policy import new_score_weight
from megatron_k15.types import TrainingSequence
from tests.conftest import VOCAB_SIZE, make_tiny_model
from tests.launch import ROOT, run_ranks
from tests.training.layouts import merge
from tests.training.objective_ranks import BETA, LEARNING_RATE, OBJECTIVES, SCORE_SEED, sequences


def _layout(tensor: int, pipeline: int, **more: object) -> dict:
    sizes = {"tensor_parallel_size": tensor, "pipeline_parallel_size": pipeline}
    return {**sizes, "use_distributed_optimizer": False, **more}


LAYOUTS = {
    "untied 2x2x1": _layout(2, 2, sequence_parallel=True),
    "untied 2x1x2": _layout(2, 1),
    "untied 1x2x2": _layout(1, 2, virtual_pipeline_parallel_size=2),
    "untied 1x1x4": _layout(1, 1),
    # Where the last stage's head is a copy of the embedding, or the embedding has no head.
    "tied 2x2x1": _layout(2, 2),
}


@pytest.fixture(scope="module")
def ranks(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    """(model directories, what four ranks wrote), from one launch."""
    directory = tmp_path_factory.mktemp("objectives")
    models = {"untied": tiny_model_dir, "tied": make_tiny_model(directory / "model", tied=True)}
    layouts = [{"name": name, "model": str(models[name.split()[0]]), **layout} for name, layout in LAYOUTS.items()]
    run_ranks(ROOT / "tests/training/objective_ranks.py", 4, str(directory), json.dumps(layouts))
    return models, directory


@pytest.mark.parametrize("model", ["untied", "tied"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_gradients_and_a_step_equal_the_reference(
    ranks: tuple[dict[str, Path], Path], objective: str, model: str
) -> None:
    models, directory = ranks
    expected = _reference(models[model], objective)
    norm = torch.stack([gradient.norm() for gradient in expected["gradients"].values()]).norm().item()
    for layout in (name for name in LAYOUTS if name.startswith(f"{model} ")):
        found = merge(directory, f"{layout}-{objective}")
        assert found["metrics"]["loss"] == pytest.approx(expected["loss"], rel=1e-5), layout
        assert found["metrics"]["grad_norm"] == pytest.approx(norm, rel=1e-4), layout
        assert found["metrics"].get("accuracy") == expected["accuracy"], layout
        assert set(found["gradients"]) == set(expected["gradients"]), layout
        for name, gradient in expected["gradients"].items():
            error = (found["gradients"][name] - gradient).norm() / gradient.norm()
            assert error <= 2e-5, f"{layout}: gradient of {name} is off by {error:.1e}"
            moved = found["weights"][name] - expected["start"][name]
            assert (moved + LEARNING_RATE * gradient).abs().max() < 1e-6, f"{layout}: {name} after a step"


def _reference(model_dir: Path, objective: str) -> dict:
    data = sequences(objective, VOCAB_SIZE)
    if objective == "correctness":
        model = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=1, dtype=torch.float32)
        model.score.weight.data.copy_(new_score_weight(model.config.hidden_size, SCORE_SEED))
        loss, accuracy = _correctness(model, data)
    else:
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager")
        compute = _cross_entropy if objective.startswith("cross_entropy") else _preferences
        loss, accuracy = compute([_logprobs(model, sequence) for sequence in data], data)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters()}
    return {"loss": loss.item(), "start": start, "gradients": gradients, "accuracy": accuracy}


def _logprobs(model: torch.nn.Module, sequence: TrainingSequence) -> torch.Tensor:
    """Of the tokens in the loss."""
    tokens = torch.tensor(sequence.token_ids)
    logprobs = model(tokens[None]).logits[0, :-1].log_softmax(-1).gather(-1, tokens[1:, None]).squeeze(-1)
    return logprobs[torch.tensor(sequence.loss_mask)[1:]]


def _cross_entropy(logprobs: list[torch.Tensor], data: list[TrainingSequence]) -> tuple[torch.Tensor, float | None]:
    return -torch.cat(logprobs).mean(), None


def _preferences(logprobs: list[torch.Tensor], data: list[TrainingSequence]) -> tuple[torch.Tensor, float | None]:
    ratios = [values.sum() - sequence.reference for values, sequence in zip(logprobs, data, strict=True)]
    margins = torch.stack([ratios[index] - ratios[index + 1] for index in range(0, len(ratios), 2)])
    return -logsigmoid(BETA * margins).mean(), (margins > 0).float().mean().item()


def _correctness(model: torch.nn.Module, data: list[TrainingSequence]) -> tuple[torch.Tensor, float | None]:
    scores = torch.cat([model(torch.tensor([sequence.token_ids])).logits[0] for sequence in data])
    labels = torch.tensor([sequence.label for sequence in data])
    agreeing = ((scores > 0) == (labels > 0.5)).float().mean().item()
    return binary_cross_entropy_with_logits(scores, labels), agreeing
