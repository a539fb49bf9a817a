"""Run by torchrun: one SGD step of every supervised objective under each layout; writes what came out.

objective_ranks.py OUT_DIR LAYOUTS        each layout with its `model` and a `name`
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_k15.config import ModelConfig, ParallelConfig, UpdateConfig
from megatron_k15.loaded_policy import load_policy, load_reward_model
from megatron_k15.models.slices import named_parameters
from megatron_k15.parallel.context import ParallelContext, initialize
from megatron_k15.training.correctness import Correctness
from megatron_k15.training.cross_entropy import CrossEntropy
from megatron_k15.training.objective import Objective
from megatron_k15.training.preferences import Preferences
from megatron_k15.training.supervised_batches import supervised_batches
from megatron_k15.training.trainer import Trainer
from megatron_k15.types import TrainingSequence
from tests.training.layout_ranks import parts
from tests.training.sample_data import random_sequences

BETA = 0.3
LEARNING_RATE = 1e-3
SCORE_SEED = 5
PACKS = [(0, 1, 4, 5), (2, 3), (6, 7)]
"""Pairs stay together; three packs leave ranks without one."""


def sequences(objective: str, vocab_size: int) -> list[TrainingSequence]:
    """Eight, of which every two are a pair; labels and reference sums differ."""
    made = random_sequences(8, vocab_size=vocab_size, seed=3)
    num_loss_tokens = sum(sum(sequence.loss_mask) for sequence in made)
    weight = {"cross_entropy": 1 / num_loss_tokens, "preferences": 1 / 4, "correctness": 1 / 8}
    return [
        replace(
            sequence,
            weight=weight[objective.removesuffix("_reference")],
            label=float(index % 3 == 0),
            # A random model gives each token about ln(vocabulary).
            reference=-5.5 * sum(sequence.loss_mask) + 0.7 * index,
        )
        for index, sequence in enumerate(made)
    ]


OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": CrossEntropy(),
    "cross_entropy_reference": CrossEntropy(fused=False),
    "preferences": Preferences(beta=BETA),
    "preferences_reference": Preferences(beta=BETA, fused=False),
    "correctness": Correctness(),
}


def _step(name: str, model: ModelConfig, context: ParallelContext) -> dict:
    if name == "correctness":
        loaded = load_reward_model(model, context, recompute=False, seed=SCORE_SEED)
    else:
        loaded = load_policy(model, context, recompute=False)
    config = UpdateConfig(optimizer="sgd", clip_grad_norm=0.0)
    trainer = Trainer(config, OBJECTIVES[name], context, loaded.chunks, dtype="fp32")
    data = sequences(name, loaded.architecture.vocab_size)
    batches = supervised_batches(
        PACKS,
        lengths=lambda pack: [len(data[index].token_ids) for index in pack],
        sequences=lambda pack: [(index, data[index]) for index in pack],
        context=context,
        architecture=loaded.architecture,
    )
    metrics = trainer.train_step(batches, learning_rate=LEARNING_RATE)
    gradients = {key: parameter.main_grad for key, parameter in named_parameters(loaded.chunks).items()}
    return {
        "metrics": metrics,
        "weights": parts(loaded.chunks, loaded.architecture, context, None),
        "gradients": parts(loaded.chunks, loaded.architecture, context, gradients),
    }


def main() -> None:
    out_dir, layouts = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for layout in json.loads(layouts):
        name, model = layout.pop("name"), ModelConfig(path=layout.pop("model"), dtype="fp32")
        with initialize(ParallelConfig(**layout), seed=0, timeout_seconds=60) as context:
            for objective in OBJECTIVES:
                found = _step(objective, model, context)
                torch.save(found, Path(out_dir) / f"{name}-{objective}.{dist.get_rank()}.pt")
                dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
