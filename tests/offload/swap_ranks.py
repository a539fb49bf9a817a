"""On each rank: hashes of all of a trainer's tensors after every step, with a swap in between and without."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import torch.distributed as dist
import xxhash

from megatron_k15.config import Config, load_config
from megatron_k15.offload.pages import memory_of
from megatron_k15.parallel.context import ParallelContext, initialize
from megatron_k15.trainer_parts import build_worker
from megatron_k15.training_worker import TrainingWorker
from tests.conftest import VOCAB_SIZE
from tests.training.sample_data import random_sequences


def digest(worker: TrainingWorker) -> str:
    found = xxhash.xxh3_64()
    for tensor in worker._trainer.tensors():
        found.update(memory_of(tensor.untyped_storage()))
    return found.hexdigest()


def steps(config: Config, context: ParallelContext, *, swap: bool) -> tuple[list[str], int, int, int]:
    with ExitStack() as stack:
        worker = build_worker(config, context, stack)
        sequences = random_sequences(6, vocab_size=VOCAB_SIZE)
        digests, away, back = [digest(worker)], 0, 0
        for iteration in range(3):
            worker.start_iteration(iteration)
            worker.update([sequences])
            worker.publish(iteration)
            if swap:
                away, back = worker.offload(), worker.onload()
            digests.append(digest(worker))
        size = sum(tensor.numel() * tensor.element_size() for tensor in worker._trainer.tensors())
        return digests, away, back, size


def main() -> None:
    model_dir, out_dir, dtype = sys.argv[1:]
    config = load_config(
        None,
        [
            f"model.path={model_dir}",
            f"model.dtype={dtype}",
            f"run_dir={out_dir}/run",
            "parallel.tensor_parallel_size=2",
            "train.learning_rate=1e-2",
        ],
    )
    with initialize(config.parallel, seed=0) as context:
        swapped, away, back, size = steps(config, context, swap=True)
        plain, *_ = steps(config, context, swap=False)
        result = {
            "swapped": swapped,
            "plain": plain,
            "offloaded_bytes": away,
            "onloaded_bytes": back,
            "tensor_bytes": size,
        }
        (Path(out_dir) / f"rank_{context.rank}.json").write_text(json.dumps(result))
        dist.barrier()


if __name__ == "__main__":
    main()
