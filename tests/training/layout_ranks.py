"""Run by torchrun: train one step under each layout of a JSON list and write what came out, in Hugging Face layout.

layout_ranks.py MODEL_DIR OUT_DIR LAYOUTS
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_k15.config import ParallelConfig, TrainConfig
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.hf_files import HfWeights
from megatron_k15.models.loading import load_hf_weights
from megatron_k15.models.policy import build_policy
from megatron_k15.models.slices import named_parameters, weight_slices
from megatron_k15.parallel.context import ParallelContext, initialize
from megatron_k15.training.policy_trainer import PolicyTrainer
from megatron_k15.transfer.publisher import Publisher
from tests.training.sample_data import random_sequences

LEARNING_RATE = 1e-3


def run(model_dir: Path, out_dir: Path, layout: dict) -> None:
    """One step with `train` settings of the layout: logprobs before, gradients, weights after."""
    settings = {key: value for key, value in layout.items() if key not in ("name", "train", "steps")}
    train = TrainConfig(learning_rate=LEARNING_RATE, clip_grad_norm=0.0, **layout["train"])
    architecture = Architecture.from_hf(model_dir)
    with initialize(ParallelConfig(**settings), seed=0, timeout_seconds=60) as context:
        chunks = build_policy(architecture, context, dtype="fp32", recompute=train.recompute)
        load_hf_weights(chunks, HfWeights.open(model_dir, architecture), architecture, context)
        trainer = PolicyTrainer(train, context, architecture, chunks, dtype="fp32", num_iterations=1)
        sequences = random_sequences(7, vocab_size=architecture.vocab_size)
        found = {"logprobs": trainer.logprobs(sequences)}
        trainer.start_iteration(0)
        steps = layout.get("steps", 1)
        metrics = trainer.update([sequences[i::steps] for i in range(steps)])
        gradients = {name: parameter.main_grad for name, parameter in named_parameters(chunks).items()}
        with Publisher(chunks, architecture, context, dtype="fp32") as publisher:
            publisher.publish(1)
            if dist.get_rank() == 0:
                names = [slot.name for slot in publisher.segment.layout.slots]
                found["published"] = {name: publisher.segment.tensor(name).clone() for name in names}
            dist.barrier()
        found |= {
            "logprobs_after": trainer.logprobs(sequences),
            "metrics": metrics,
            "weights": parts(chunks, architecture, context, None),
            "gradients": parts(chunks, architecture, context, gradients),
        }
        torch.save(found, out_dir / f"{layout['name']}.{dist.get_rank()}.pt")
        dist.barrier()


def parts(chunks: list, architecture: Architecture, context: ParallelContext, instead: dict | None) -> list:
    """(HF name, shard dim, start, this rank's slice) of the weights, or of `instead` by megatron-core name."""
    parts = []
    for rule, local in weight_slices(chunks, architecture, context):
        if instead is not None:
            local = rule.local_view(instead[rule.mcore_name], context.tensor_rank, context.tensor_size)
        start, length = rule.hf_region(context.tensor_rank, context.tensor_size)
        shape = list(rule.hf_shape)
        shape[rule.shard_dim or 0] = length
        parts.append((rule.hf_name, rule.shard_dim or 0, start, local.reshape(shape).clone()))
    return parts


def main() -> None:
    model_dir, out_dir, layouts = sys.argv[1:]
    torch.set_num_threads(1)
    # One process group for all layouts: `initialize` then builds only its own groups on it.
    dist.init_process_group("gloo")
    for layout in json.loads(layouts):
        run(Path(model_dir), Path(out_dir), layout)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
