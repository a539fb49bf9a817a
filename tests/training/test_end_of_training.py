"""When training ends, what it held is given back: the model's memory, and the threads of the process groups."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from megatron_k15.config import ModelConfig, ParallelConfig, TrainConfig
from megatron_k15.loaded_policy import load_policy
from megatron_k15.parallel.context import initialize
from megatron_k15.training.policy_trainer import PolicyTrainer
from tests.training.sample_data import random_sequences


@pytest.mark.parametrize("distributed_optimizer", [True, False])
def test_nothing_of_the_trainer_stays(tiny_model_dir: Path, distributed_optimizer: bool) -> None:
    left, threads = [], []
    for _ in range(3):
        left.append(_train(tiny_model_dir, distributed_optimizer))
        gc.collect()
        threads.append([path.read_text() for path in Path("/proc/self/task").glob("*/comm")].count("gloo_tcp_loop\n"))
    assert [name for one in left for name, reference in one.items() if reference() is not None] == []
    # gloo keeps a thread or two once there were groups; they do not become more.
    assert threads[2] <= threads[0] <= 4


def _train(model_dir: Path, distributed_optimizer: bool) -> dict[str, weakref.ref[Any]]:
    parallel = ParallelConfig(use_distributed_optimizer=distributed_optimizer)
    with initialize(parallel, seed=0) as context:
        loaded = load_policy(ModelConfig(path=str(model_dir), dtype="fp32"), context, recompute=False)
        trainer = PolicyTrainer(
            TrainConfig(), context, loaded.architecture, loaded.chunks, dtype=loaded.dtype, num_iterations=1
        )
        trainer.start_iteration(0)
        trainer.update([random_sequences(4, vocab_size=loaded.architecture.vocab_size)])
        held = {"trainer": trainer, "optimizer": trainer.optimizer, "model": loaded.chunks[0]}
        return {name: weakref.ref(value) for name, value in held.items()}
