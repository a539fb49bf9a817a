"""Sample trajectories of an iteration, as records that `tools/show_samples.py` shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_k15.metrics.jsonl import json_line
from megatron_k15.types import Group

DIRECTORY = "samples"


def samples_path(run_dir: Path, iteration: int) -> Path:
    return run_dir / DIRECTORY / f"iteration_{iteration:05d}.jsonl"


def iteration_of(path: Path) -> int:
    return int(path.stem.removeprefix("iteration_"))


def save_samples(run_dir: Path, iteration: int, groups: Sequence[Group], count: int) -> None:
    """Write `count` trajectories (all, where there are fewer), spread evenly over the groups."""
    every = [(group, index) for group in groups for index in range(len(group.trajectories))]
    count = min(count, len(every))
    if not count:
        return
    chosen = [every[position * len(every) // count] for position in range(count)]
    path = samples_path(run_dir, iteration)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.new")
    staged.write_text("".join(json_line(_record(group, index)) for group, index in chosen), encoding="utf-8")
    staged.replace(path)


def discard_samples_from(run_dir: Path, iteration: int) -> None:
    """Delete what an earlier run wrote for this iteration and later ones."""
    for path in sample_files(run_dir):
        if iteration_of(path) >= iteration:
            path.unlink()


def sample_files(run_dir: Path) -> list[Path]:
    """The sample files of a run, oldest iteration first."""
    return sorted((run_dir / DIRECTORY).glob("iteration_[0-9]*.jsonl"), key=iteration_of)


def _record(group: Group, index: int) -> dict[str, Any]:
    trajectory, score = group.trajectories[index], group.scores[index]
    return {
        "prompt_id": group.prompt.id,
        "task": group.prompt.task,
        "prompt": group.prompt.text,
        "reference": group.prompt.answer,
        "sample_index": trajectory.sample_index,
        "response": trajectory.text,
        "num_response_tokens": trajectory.num_response_tokens,
        "finish_reason": trajectory.finish_reason,
        "correct": score.correct,
        "reward": score.reward,
        "parts": dict(score.parts),
    }
