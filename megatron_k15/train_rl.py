"""Reinforcement learning as in §2.3 and §2.6: the entry point.

    torchrun --nproc-per-node N -m megatron_k15.train_rl --config FILE [key=value …] [--dry-run]

Builds the parts of one rank, then rank 0 runs the master and the others serve its calls.
"""

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from megatron_k15.config import Config, to_yaml
from megatron_k15.program import run_program, world_size

if TYPE_CHECKING:
    from megatron_k15.parallel.context import ParallelContext


def main(arguments: list[str] | None = None) -> int:
    return run_program(
        "train_rl",
        "RL on megatron-core and vLLM.",
        Config,
        plan=_plan,
        run=run,
        interrupted="vLLM is stopped, shared memory is cleared",
        arguments=arguments,
    )


def _plan(config: Config) -> str:
    from megatron_k15.models.architecture import Architecture
    from megatron_k15.models.mapping import num_parameters
    from megatron_k15.models.package_model import resolve_model
    from megatron_k15.parallel.platform import resolve_dtype
    from megatron_k15.rl_plan import describe_plan

    architecture = Architecture.from_hf(resolve_model(config.model.path))
    return describe_plan(
        config,
        architecture,
        world_size=world_size(),
        dtype=resolve_dtype(config.model.dtype),
        num_parameters=num_parameters(architecture),
    )


def run(config: Config) -> None:
    """One rank's part of a run, from start to end."""
    from megatron_k15.parallel.context import initialize

    with initialize(config.parallel, seed=config.seed, timeout_seconds=config.wait_timeout_seconds) as context:
        if context.rank == 0:
            _lead(config, context)
        else:
            _serve(config, context)


def _serve(config: Config, context: "ParallelContext") -> None:
    from megatron_k15.trainer_group import TrainerGroup
    from megatron_k15.trainer_parts import build_worker

    with ExitStack() as stack:
        worker = build_worker(config, context, stack)
        TrainerGroup(worker, wait_timeout_seconds=config.wait_timeout_seconds).serve()


def _lead(config: Config, context: "ParallelContext") -> None:
    """Rank 0: start vLLM and the trainer side by side, then run the master."""
    from megatron_k15.leader_parts import LeaderParts
    from megatron_k15.master import Master
    from megatron_k15.trainer_group import TrainerGroup
    from megatron_k15.trainer_parts import build_worker

    with ExitStack() as stack:
        leader = LeaderParts(config, stack, config_yaml=to_yaml(config))
        with leader.progress.phase("starting vLLM and the trainer") as update:
            starting = leader.start_engines(update)
            worker = build_worker(config, context, stack, leader.update_control())
            trainers = TrainerGroup(worker, wait_timeout_seconds=config.wait_timeout_seconds)
            stack.callback(trainers.stop)
            leader.wait_for_engines(starting)
        master = Master(config, leader.parts(trainers))
        leader.resume(master, trainers)
        master.run()
        with leader.progress.phase(f"writing the Hugging Face checkpoint to {leader.export_dir}"):
            trainers.export(str(leader.export_dir))
        leader.progress.say(f"done: {leader.export_dir} loads in transformers and vLLM")


if __name__ == "__main__":
    sys.exit(main())
