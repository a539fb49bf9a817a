"""Run by torchrun: two updates with a checkpoint between them, or only the second, from that checkpoint.

ranks_continue.py MODEL_DIR CHECKPOINTS OUT_DIR CASE        CASE: JSON, see `main`
"""

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_k15.checkpoint.resume import find_newest
from megatron_k15.config import CheckpointConfig, Config, ModelConfig, ParallelConfig, TrainConfig
from megatron_k15.parallel.context import initialize
from megatron_k15.trainer_parts import build_worker
from tests.training.sample_data import random_sequences


def main() -> None:
    model_dir, run_dir, out_dir, text = sys.argv[1:]
    case = json.loads(text)
    torch.set_num_threads(1)
    config = Config(
        run_dir=run_dir,
        model=ModelConfig(path=model_dir, dtype=case["dtype"]),
        parallel=ParallelConfig(**case["parallel"]),
        train=TrainConfig(learning_rate=1e-3, reset_optimizer=case["reset_optimizer"]),
        checkpoint=CheckpointConfig(num_kept=3),
    )
    with initialize(config.parallel, seed=0, timeout_seconds=60) as context, ExitStack() as stack:
        worker = build_worker(config, context, stack)
        if case["resume"]:
            newest = find_newest(Path(run_dir) / "checkpoints")
            assert newest is not None
            state = worker.load(str(newest))
            assert state == {"note": "after the first"}, state
        else:
            _update(worker, 0)
            worker.save(1, {"note": "after the first"}, {})
        _update(worker, 1)
        worker.publish(2)
        if dist.get_rank() == 0:
            segment = worker._publisher.segment
            tensors = {slot.name: segment.tensor(slot.name).clone() for slot in segment.layout.slots}
            torch.save(tensors, Path(out_dir) / f"{case['name']}.pt")
        dist.barrier()


def _update(worker, iteration: int) -> None:
    worker.start_iteration(iteration)
    worker.update([random_sequences(6, vocab_size=300, seed=iteration)])


if __name__ == "__main__":
    main()
