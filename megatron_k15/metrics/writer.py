"""A run's numbers: `metrics.jsonl`, TensorBoard, wandb, sample trajectories, one line per iteration on the terminal.

When a run is resumed, the first record written tells where: what an earlier run recorded from that point on is
dropped (JSONL, samples) or marked as purged (TensorBoard), so that no iteration appears twice.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from megatron_k15.config import MetricsConfig
from megatron_k15.metrics.jsonl import append_line, keep_lines
from megatron_k15.metrics.samples import discard_samples_from, save_samples
from megatron_k15.metrics.wandb_feed import WandbFeed
from megatron_k15.types import Group


class MetricsWriter:
    """Args:
    run_dir: created where missing.
    resolved_config_yaml: kept as `run_dir/config.yaml` and shown in TensorBoard and wandb.
    say: prints one line, e.g. `Progress.say`.
    describe: the line per iteration, from its number and its values.
    """

    def __init__(
        self,
        run_dir: str | Path,
        config: MetricsConfig,
        *,
        resolved_config_yaml: str,
        say: Callable[[str], None] = print,
        describe: Callable[[int, Mapping[str, float]], str] | None = None,
    ) -> None:
        self._run_dir = Path(run_dir)
        self._config = config
        self._config_yaml = resolved_config_yaml
        self._say = say
        self._describe = describe or iteration_line
        self._started = False
        self._tensorboard: Any = None
        self._wandb: WandbFeed | None = None

    def __enter__(self) -> Self:
        self._run_dir.mkdir(parents=True, exist_ok=True)
        (self._run_dir / "config.yaml").write_text(self._config_yaml, encoding="utf-8")
        if self._config.wandb != "off":
            self._wandb = WandbFeed(self._run_dir, self._config, self._config_yaml, warn=self._say)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.close()

    def write(self, iteration: int, values: Mapping[str, float], groups: Sequence[Group] = ()) -> None:
        """Record one iteration (of a supervised stage: one step): its numbers, some of its trajectories, its line on
        the terminal."""
        self._record("iteration", iteration, values)
        save_samples(self._run_dir, iteration, groups, self._config.num_samples_saved)
        self._say(self._describe(iteration, values))

    def write_evaluation(self, iteration: int, values: Mapping[str, float]) -> None:
        """Record an evaluation of the weights after `iteration` iterations, as `evaluation/…`."""
        self._record("evaluation", iteration, {f"evaluation/{name}": value for name, value in values.items()})

    def _record(self, kind: str, iteration: int, values: Mapping[str, float]) -> None:
        if not self._started:
            self._start(kind, iteration)
        numbers = {name: float(value) for name, value in values.items()}
        head = {"kind": kind, "iteration": iteration, "unix_seconds": round(time.time(), 3)}
        append_line(self._jsonl, {**head, **numbers})
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, iteration)
            self._tensorboard.flush()
        if self._wandb is not None:
            self._wandb.log(iteration, numbers)

    @property
    def _jsonl(self) -> Path:
        return self._run_dir / "metrics.jsonl"

    def _start(self, kind: str, iteration: int) -> None:
        """Drop what an earlier run recorded of this record's time and later."""
        self._started = True
        keep_lines(self._jsonl, lambda record: _comes_before(record, kind, iteration))
        discard_samples_from(self._run_dir, iteration)
        if self._config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            purge = iteration if iteration else None
            self._tensorboard = SummaryWriter(str(self._run_dir / "tensorboard"), purge_step=purge)
            self._tensorboard.add_text("config", f"```\n{self._config_yaml}\n```", iteration)


def _comes_before(record: Mapping[str, Any], kind: str, iteration: int) -> bool:
    """Evaluation n, of the weights after n iterations, comes before iteration n, which counts from 0."""
    order = {"evaluation": 0, "iteration": 1}
    return (record["iteration"], order[record["kind"]]) < (iteration, order[kind])


def iteration_line(iteration: int, values: Mapping[str, float]) -> str:
    """The line per iteration: what was learned, how long each phase took, whether trainer and vLLM agree."""
    phases = {
        name.removeprefix("time/").removesuffix("_seconds"): value
        for name, value in values.items()
        if name.startswith("time/") and name.endswith("_seconds") and name != "time/iteration_seconds"
    }
    pieces = [f"iteration {iteration}"]
    pieces += [f"{label} {format(values[name], spec)}{unit}" for label, name, spec, unit in _LEARNED if name in values]
    pieces += [f"{phase} {seconds:.1f} s" for phase, seconds in phases.items()]
    pieces += [f"{label} {format(values[name], spec)}{unit}" for label, name, spec, unit in _RAN if name in values]
    return " | ".join(pieces)


_LEARNED = (
    ("reward", "reward/mean", ".3f", ""),
    ("accuracy", "reward/accuracy", ".3f", ""),
    ("length", "rollout/mean_response_tokens", ".1f", " tokens"),
)
_RAN = (
    ("speed", "time/tokens_per_second", ".0f", " tokens/s"),
    ("staleness", "rollout/staleness", ".2f", ""),
    ("logprob gap", "sync/logprob_gap_mean", ".1e", ""),
)
"""Label, key, format and unit."""
