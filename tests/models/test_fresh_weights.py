"""Random weights as described, and a changed rotary base as transformers computes it."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from megatron_k15.config import ModelConfig, ParallelConfig, TrainConfig
from megatron_k15.loaded_policy import load_policy
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.fresh_weights import FreshWeights
from megatron_k15.parallel.context import initialize
from megatron_k15.training.policy_trainer import PolicyTrainer
from tests.models.tiny_models import build
from tests.training.sample_data import random_sequences


def test_each_tensor_is_drawn_by_itself_with_its_own_spread(tmp_path: Path) -> None:
    architecture = Architecture.from_hf(build(tmp_path, "qwen2", num_layers=2))
    weights = FreshWeights(architecture=architecture, seed=1, std=0.5)
    plain = weights.tensor("model.layers.0.self_attn.q_proj.weight")
    assert torch.equal(plain, weights.tensor("model.layers.0.self_attn.q_proj.weight"))
    assert not torch.equal(plain, weights.tensor("model.layers.1.self_attn.q_proj.weight"))
    assert not torch.equal(
        plain, FreshWeights(architecture=architecture, seed=2, std=0.5).tensor("model.layers.0.self_attn.q_proj.weight")
    )
    assert abs(plain.std().item() / 0.5 - 1) < 0.05
    into_residual = weights.tensor("model.layers.0.mlp.down_proj.weight")
    assert abs(into_residual.std().item() / (0.5 / math.sqrt(4)) - 1) < 0.05
    assert weights.tensor("model.norm.weight").eq(1).all()
    assert weights.tensor("model.layers.0.self_attn.q_proj.bias").eq(0).all()


def test_a_changed_rotary_base_is_transformers_own(tiny_model_dir: Path) -> None:
    sequences = [replace(one, loss_mask=(False, *one.loss_mask[1:])) for one in random_sequences(2, vocab_size=323)]
    config = AutoConfig.from_pretrained(tiny_model_dir)
    config.rope_parameters["rope_theta"] = 1e6
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, config=config)
    with initialize(ParallelConfig(), seed=0) as context:
        _, architecture, dtype, chunks = load_policy(
            ModelConfig(path=str(tiny_model_dir), dtype="fp32"), context, recompute=False
        )
        trainer = PolicyTrainer(TrainConfig(), context, architecture, chunks, dtype=dtype, num_iterations=1)
        before = trainer.logprobs(sequences)
        trainer.set_rope_theta(1e6)
        after = trainer.logprobs(sequences)
    assert before != after
    for ours, sequence in zip(after, sequences, strict=True):
        tokens = torch.tensor(sequence.token_ids)
        logprobs = model(tokens[None]).logits[0, :-1].log_softmax(-1).gather(-1, tokens[1:, None]).squeeze(-1)
        theirs = logprobs[torch.tensor(sequence.loss_mask)[1:]]
        torch.testing.assert_close(torch.tensor(ours), theirs, atol=2e-5, rtol=1e-5)
