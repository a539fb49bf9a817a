"""Reinforcement learning as in §2.3 and §2.6: the entry point.

    torchrun --nproc-per-node N -m megatron_k15.train_rl --config FILE [key=value …] [--dry-run]

Builds the parts of one rank, then rank 0 runs the master and the others serve its calls.
"""

import argparse
import os
import signal
import sys
import traceback
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NoReturn

from megatron_k15.config import Config, load_config, to_yaml
from megatron_k15.errors import K15Error, leave_for_torchrun

if TYPE_CHECKING:
    from megatron_k15.parallel.context import ParallelContext

INTERRUPTED = 130

EXPECTED_WARNINGS = (
    "(Transformer Engine and )?Apex (is|are) not installed",  # optional; where a GPU needs one, we refuse ourselves
    "full scope is deprecated",  # megatron-core 0.16.1 on its own default
    "The .grad attribute of a Tensor that is not a leaf",  # its distributed optimizer looks at every shard's
    ".*torch.distributed.* is deprecated",  # its calls, torch 2.13's new names
)
"""Of the pinned libraries about each other, nothing a user can act on: each would be printed at every start."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="megatron_k15.train_rl", description="RL on megatron-core and vLLM.")
    parser.add_argument("--config", help="a YAML file; see examples/")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and the plan, start nothing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, e.g. train.tau=0.05")
    options = parser.parse_intermixed_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    try:
        config = load_config(options.config, options.overrides)
        if options.dry_run:
            _print_plan(config)
        else:
            run(config)
    except K15Error as error:
        told = leave_for_torchrun(f"error: {error}")
        # Under torchrun the other ranks' words are in its summary: thousands of them would hide rank 0's.
        if _is_first_rank() or not told:
            print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        if _is_first_rank():
            print("interrupted: vLLM is stopped, shared memory is cleared", file=sys.stderr, flush=True)
        return INTERRUPTED
    except Exception:
        leave_for_torchrun(traceback.format_exc())
        raise
    return 0


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _interrupt(signum: int, frame: Any) -> NoReturn:
    """Ctrl-C, or torchrun's SIGTERM: unwind once. torchrun sends both, and the second must not cut the first short."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _print_plan(config: Config) -> None:
    from megatron_k15.models.architecture import Architecture
    from megatron_k15.models.mapping import num_parameters
    from megatron_k15.models.package_model import resolve_model
    from megatron_k15.parallel.platform import resolve_dtype
    from megatron_k15.plan import describe_plan

    architecture = Architecture.from_hf(resolve_model(config.model.path))
    print(
        describe_plan(
            config,
            architecture,
            world_size=int(os.environ.get("WORLD_SIZE", "1")),
            dtype=resolve_dtype(config.model.dtype),
            num_parameters=num_parameters(architecture),
        )
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
