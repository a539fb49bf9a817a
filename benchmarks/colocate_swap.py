"""Trainer and vLLM take turns on one machine's memory: resident bytes of both sides over many cycles, as a picture.

A cycle is what a run does: rollout, vLLM's memory back (RELEASE), trainer's memory taken (TRAIN), an update, weights
written, trainer's memory away (OFFLOAD), vLLM takes memory, loads and is probed (TRANSFER).

`ratio` is the largest resident memory of both sides together in any state, over what both hold when neither gives
anything away (`colocate.mode=off`), measured at the start of the same run. `growth` is that of each side's resident
memory, of shared memory, descriptors and threads from the end of warm-up to the end.

Prints one JSON line, and writes `--png`.
`python benchmarks/colocate_swap.py [--mode restart] [--cycles N] [--png FILE]`
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import psutil
from rounds import machine
from run_parts import scored_groups, started

from megatron_k15.config import (
    CheckpointConfig,
    ColocateConfig,
    Config,
    EngineConfig,
    MetricsConfig,
    ModelConfig,
    PromptConfig,
    RolloutConfig,
)
from megatron_k15.parts import Parts
from megatron_k15.rollout.sampling import Sampling
from megatron_k15.training.advantages import training_sequences
from megatron_k15.types import Group
from megatron_k15.weight_sync import probe_of_prompts

WARM_UP_CYCLES = 5
MIB = 2**20
TRANSITIONS = ("release", "train", "offload", "transfer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="package:smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--mode", choices=("sleep", "restart"), default="sleep")
    parser.add_argument("--cycles", type=int, default=30, help="after warm-up")
    parser.add_argument("--warm-up", type=int, default=WARM_UP_CYCLES)
    parser.add_argument("--png", type=Path, help="where the picture goes; default: none is drawn")
    parser.add_argument("--repeats", type=int, help="as --cycles, for the other benchmarks' sake")
    arguments = parser.parse_args()
    arguments.cycles = arguments.repeats or arguments.cycles
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as name:
        result = _measure(arguments, Path(name))
    print(json.dumps(result))


def _config(arguments: argparse.Namespace, run_dir: Path) -> Config:
    return Config(
        run_dir=str(run_dir),
        model=ModelConfig(path=arguments.model, dtype=arguments.dtype, chat_template=False),
        prompts=PromptConfig(
            reasoning_gym={"chain_sum": {"min_terms": 2, "max_terms": 2}}, num_train=8, max_prompt_tokens=96
        ),
        rollout=RolloutConfig(prompts_per_iteration=2, responses_per_prompt=2, max_response_tokens=16),
        engine=EngineConfig(max_model_len=128),
        colocate=ColocateConfig(mode=arguments.mode),
        checkpoint=CheckpointConfig(resume=False),
        metrics=MetricsConfig(tensorboard=False),
    )


def _measure(arguments: argparse.Namespace, run_dir: Path) -> dict[str, object]:
    config = _config(arguments, run_dir)
    with started(config) as parts:
        cycle = Cycle(config, parts)
        for number in range(arguments.warm_up + arguments.cycles):
            cycle.run()
            print(f"cycle {number}", cycle.samples[-1], file=sys.stderr, flush=True)
    if arguments.png:
        draw(cycle.samples, arguments)
    together = max(sample["trainer"] + sample["vllm"] for sample in cycle.samples[5 * arguments.warm_up :])
    return {
        "benchmark": "colocate_swap",
        "ratio": round(together / cycle.both_resident, 3),
        "baseline": "both sides resident at once",
        "mode": arguments.mode,
        "both_resident_mib": round(cycle.both_resident / MIB),
        "resident_mib": resident_by_state(cycle.samples),
        "growth": growth(cycle.samples[5 * arguments.warm_up - 1 :: 5]),
        "seconds": {name: round(statistics.median(cycle.seconds[name]), 4) for name in TRANSITIONS},
        "moved_mib": {name: round(statistics.median(cycle.moved[name]) / MIB, 1) for name in TRANSITIONS},
        "cycles": arguments.cycles,
        "dtype": arguments.dtype,
        **machine(),
    }


class Cycle:
    """One iteration after another, with a sample of both sides' memory at every state."""

    def __init__(self, config: Config, parts: Parts) -> None:
        self._config = config
        self._parts = parts
        self._iteration = 0
        self.samples: list[dict[str, float]] = []
        self.both_resident = 0.0
        self.seconds: dict[str, list[float]] = {name: [] for name in TRANSITIONS}
        self.moved: dict[str, list[float]] = {name: [] for name in TRANSITIONS}
        self._probe = probe_of_prompts(parts.prompts.train)
        parts.colocation.to_rollout(version=0, probe=self._probe)
        self._groups = self._rollout()
        parts.trainers.onload()
        self._update()
        both = self._sample("both")
        self.both_resident = both["trainer"] + both["vllm"]
        self.samples.clear()
        parts.trainers.offload()

    def run(self) -> None:
        colocation = self._parts.colocation
        self._groups = self._rollout()
        colocation.on_state = lambda state: self._sample(state.value)
        colocation.to_train()
        steps = self._update()
        self._iteration += 1
        colocation.to_rollout(version=self._iteration, probe=steps[0] if steps else self._probe)
        colocation.on_state = None
        for name in TRANSITIONS:
            self.seconds[name].append(colocation.transitions[f"{name}_seconds"])
            self.moved[name].append(colocation.transitions[f"{name}_bytes"])

    def _update(self) -> list:
        steps, _ = training_sequences(self._groups, self._config.train, version=self._iteration)
        self._parts.trainers.start_iteration(self._iteration)
        self._parts.trainers.update(steps)
        return steps

    def _rollout(self) -> list[Group]:
        prompts, sampling = self._parts.prompts.train[:2], Sampling.for_training(self._config.rollout)
        return scored_groups(self._parts, prompts, sampling, seed=self._config.seed, iteration=self._iteration)

    def _sample(self, state: str) -> dict[str, float]:
        own = psutil.Process()
        vllm = [process for process in map(_process, self._parts.pool.pids) if process is not None]
        shared = os.statvfs("/dev/shm")
        sample = {
            "state": state,
            "trainer": own.memory_info().rss,
            "vllm": sum(process.memory_info().rss for process in vllm),
            "shared_memory": (shared.f_blocks - shared.f_bfree) * shared.f_frsize,
            "trainer_descriptors": own.num_fds(),
            "trainer_threads": own.num_threads(),
            "vllm_descriptors": sum(process.num_fds() for process in vllm),
            "vllm_threads": sum(process.num_threads() for process in vllm),
        }
        self.samples.append(sample)
        return sample


def _process(pid: int) -> psutil.Process | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid)
    return None


def growth(samples: list[dict[str, float]]) -> dict[str, float]:
    """From the first five to the last five of the samples, which are all of one state: medians, since a connection may
    be open at the moment of one sample. Bytes in MiB."""
    found = {}
    for name in (key for key in samples[0] if key != "state"):
        first, last = (statistics.median(sample[name] for sample in part) for part in (samples[:5], samples[-5:]))
        in_bytes = name in ("trainer", "vllm", "shared_memory")
        found[f"{name}_mib" if in_bytes else name] = round((last - first) / MIB, 1) if in_bytes else last - first
    return found


def resident_by_state(samples: list[dict[str, float]]) -> dict[str, dict[str, int]]:
    """Medians over the cycles."""
    states = dict.fromkeys(sample["state"] for sample in samples)
    return {
        str(state): {
            side: round(statistics.median(sample[side] for sample in samples if sample["state"] == state) / MIB)
            for side in ("trainer", "vllm")
        }
        for state in states
    }


def draw(samples: list[dict[str, float]], arguments: argparse.Namespace) -> None:
    """Both sides' resident memory: the last two cycles in detail, and all of them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (detail, whole) = pyplot.subplots(2, 1, figsize=(11, 7), constrained_layout=True)
    for axes, shown in ((detail, samples[-10:]), (whole, samples)):
        for side in ("trainer", "vllm"):
            axes.step(range(len(shown)), [sample[side] / MIB for sample in shown], where="mid", label=side)
        axes.set_ylabel("resident MiB")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right")
    detail.set_xticks(range(len(samples[-10:])), [str(sample["state"]) for sample in samples[-10:]], rotation=30)
    detail.set_title(f"colocate.mode={arguments.mode}: the last two cycles")
    whole.set_title(f"{len(samples) // 5} cycles, five states each")
    figure.savefig(arguments.png, dpi=110)


if __name__ == "__main__":
    main()
