"""`train.kernels`: the trainer's loss, gradients and logprobs are the same fused and in plain PyTorch."""

from pathlib import Path

import pytest
import torch

from megatron_k15.config import ParallelConfig, TrainConfig
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.hf_files import HfWeights
from megatron_k15.models.loading import load_hf_weights
from megatron_k15.models.policy import build_policy
from megatron_k15.models.slices import named_parameters
from megatron_k15.parallel.context import initialize
from megatron_k15.training.advantages import training_sequences
from megatron_k15.training.packing import Family, assign
from megatron_k15.training.policy_trainer import PolicyTrainer
from tests.training.sample_data import random_sequences
from tests.training.test_mirror_descent import _group


@pytest.mark.parametrize("correction", ["off", "truncated"])
def test_a_trainer_step_is_the_same(tiny_model_dir: Path, correction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two optimizer steps, so that the second has s ≠ 0; chunks of three rows, so that sequences span them."""
    monkeypatch.setitem(__import__("megatron_k15.kernels.head", fromlist=["head"]).CHUNK_BYTES, "cpu", 3 * 323 * 4)
    fused, plain = (_step(tiny_model_dir, kernels, correction) for kernels in ("fused", "reference"))
    assert fused["metrics"].keys() == plain["metrics"].keys()
    for name, value in plain["metrics"].items():
        assert fused["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert abs(plain["metrics"]["log_ratio_mean"]) > 1e-6
    torch.testing.assert_close(fused["logprobs"], plain["logprobs"], rtol=0, atol=1e-5)
    for name, gradient in plain["gradients"].items():
        error = (fused["gradients"][name] - gradient).norm() / gradient.norm().clamp(min=1e-12)
        assert error < 1e-5, name


def _step(model_dir: Path, kernels: str, correction: str) -> dict:
    architecture = Architecture.from_hf(model_dir)
    config = TrainConfig(
        optimizer="sgd", learning_rate=1e-3, kernels=kernels, importance_correction=correction, clip_grad_norm=0.0
    )
    parallel = ParallelConfig(use_distributed_optimizer=False)
    sequences = random_sequences(6, vocab_size=architecture.vocab_size)
    with initialize(parallel, seed=0) as context:
        chunks = build_policy(architecture, context, dtype="fp32")
        load_hf_weights(chunks, HfWeights.open(model_dir, architecture), architecture, context)
        trainer = PolicyTrainer(config, context, architecture, chunks, dtype="fp32", num_iterations=1)
        trainer.start_iteration(0)
        metrics = trainer.update([sequences[:3], sequences[3:]])
        gradients = {name: value.main_grad.clone() for name, value in named_parameters(chunks).items()}
        logprobs = torch.tensor([value for row in trainer.logprobs(sequences) for value in row])
    return {"metrics": metrics, "gradients": gradients, "logprobs": logprobs}


@pytest.mark.parametrize("baseline", ["mean", "log_mean_exp"])
def test_advantages_are_the_same(baseline: str) -> None:
    groups = [_group("a", [1.0, 0.0, 0.3]), _group("b", [1.0, 1.0]), _group("c", [-2.0, 5.0, 0.0, 0.25])]
    fused, plain = (
        training_sequences(groups, TrainConfig(kernels=kernels, baseline=baseline), version=0)[0][0]
        for kernels in ("fused", "reference")
    )
    assert [one.advantage for one in fused] == pytest.approx([one.advantage for one in plain], abs=1e-14)
    assert [one.weight for one in fused] == [one.weight for one in plain]


def test_best_fit_saves_a_micro_batch_where_balancing_does_not_fit() -> None:
    """By cost, the short families come first and spread; the long ones then find no room in two micro-batches."""
    units = [Family(members=(index,), num_tokens=size, cost=100 - size) for index, size in enumerate((60, 60, 40, 40))]
    (rank,) = assign(units, data_size=1, max_tokens=100)
    assert sorted(sum(family.num_tokens for family in batch) for batch in rank) == [100, 100]
    units = [
        Family(members=(index,), num_tokens=size, cost=100 - size) for index, size in enumerate((70, 70, 30, 15, 15))
    ]
    (rank,) = assign(units, data_size=1, max_tokens=100)
    assert len(rank) == 2
    assert all(sum(family.num_tokens for family in batch) <= 100 for batch in rank)
