"""What every training program does around its run: arguments, `--dry-run`, signals, errors in one line.

torchrun --nproc-per-node N -m megatron_k15.train_… --config FILE [key=value …] [--dry-run]
"""

import argparse
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from megatron_k15.config import load_config_of
from megatron_k15.errors import K15Error, leave_for_torchrun

C = TypeVar("C")

INTERRUPTED = 130

EXPECTED_WARNINGS = (
    "(Transformer Engine and )?Apex (is|are) not installed",  # optional; where a GPU needs one, we refuse ourselves
    "full scope is deprecated",  # megatron-core 0.16.1 on its own default
    "The .grad attribute of a Tensor that is not a leaf",  # its distributed optimizer looks at every shard's
    ".*torch.distributed.* is deprecated",  # its calls, torch 2.13's new names
    "`load_state_dict` is deprecated",  # the same, when a checkpoint is read
    "Please use DTensor instead",  # its checkpoints are of ShardedTensor
)
"""Of the pinned libraries about each other, nothing a user can act on: each would be printed at every start."""


def run_program(
    name: str,
    description: str,
    config_class: type[C],
    *,
    plan: Callable[[C], str],
    run: Callable[[C], None],
    interrupted: str,
    arguments: list[str] | None = None,
) -> int:
    """Read the config, then print its plan (`--dry-run`) or run it; returns the exit status.

    Args:
        interrupted: what Ctrl-C leaves, said by the first rank.
    """
    parser = argparse.ArgumentParser(prog=f"megatron_k15.{name}", description=description)
    parser.add_argument("--config", help="a YAML file; see examples/")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and the plan, start nothing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, e.g. model.path=DIR")
    options = parser.parse_intermixed_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    ignore_expected_warnings()
    try:
        config = load_config_of(config_class, options.config, options.overrides)
        if options.dry_run:
            print(plan(config))
        else:
            run(config)
    except K15Error as error:
        told = leave_for_torchrun(f"error: {error}")
        # Under torchrun the other ranks' words are in its summary: thousands of them would hide rank 0's.
        if is_first_rank() or not told:
            print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        if is_first_rank():
            print(f"interrupted: {interrupted}", file=sys.stderr, flush=True)
        return INTERRUPTED
    except Exception:
        leave_for_torchrun(traceback.format_exc())
        raise
    return 0


def ignore_expected_warnings() -> None:
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)


def is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def world_size() -> int:
    """Ranks that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _interrupt(signum: int, frame: Any) -> NoReturn:
    """Ctrl-C, or torchrun's SIGTERM: unwind once. torchrun sends both, and the second must not cut the first short."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
