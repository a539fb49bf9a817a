"""Any process may die at any time: `kill -9` at random moments changes nothing about the weights that come out.

Deterministic set-up: fp32, one sequence at a time, prefix cache off, seeds that depend on what is sampled alone.
"""

import contextlib
import json
import os
import random
import re
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from megatron_k15.replay.record_file import scan
from megatron_k15.replay.records import read_facts
from tests.train_run import TrainRun, tiny_overrides

NUM_ITERATIONS = 12
SEED = 11


def overrides(model_dir: Path, directory: Path) -> list[str]:
    directory.mkdir()
    return [
        *tiny_overrides(model_dir, directory),
        f"num_iterations={NUM_ITERATIONS}",
        "parallel.tensor_parallel_size=2",
        "rollout.prompts_per_iteration=2",
        "rollout.responses_per_prompt=2",
        "rollout.budget_tokens=5",
        "rollout.max_concurrent_requests=1",
        "engine.enable_prefix_caching=false",
        "engine.hang_timeout_seconds=20",
        "checkpoint.every_iterations=2",
        "checkpoint.num_kept=100",
        "evaluation.num_prompts=0",
        "evaluation.files=[]",
    ]


def start(config: list[str], *, max_restarts: int = 2) -> TrainRun:
    return TrainRun(config, num_ranks=2, max_restarts=max_restarts)


def test_weights_are_those_of_an_undisturbed_run(tiny_model_dir: Path, tmp_path: Path) -> None:
    with start(overrides(tiny_model_dir, tmp_path / "undisturbed")) as run:
        assert run.finish(400) == 0, "\n".join(run.lines[-40:])
    disturbed = [*overrides(tiny_model_dir, tmp_path / "disturbed"), "colocate.mode=sleep"]
    moment = _moments(tmp_path / "undisturbed")
    with start(disturbed) as run:
        run.wait_for("iteration 0 |", 200)
        moment()
        _kill(run.processes("VLLM::EngineCore"))
        run.wait_for("iteration 2 |", 200)  # the first in which groups are complete, and judged
        moment()
        _kill(run.processes("megatron_k15.rewards.judging"))
        run.wait_for_next(r"\| reward", 120)
        moment()
        # The second trainer rank; torchrun ends the first and starts both again.
        _kill([rank_processes(run)["1"]])
        assert _continued_after(run.wait_for("continuing after iteration", 200)) > 0
        # Past an even iteration something was sampled since the last checkpoint.
        run.wait_for_next(r"iteration \d*[02468] \|", 120)
        moment(0.3)
        # Everything at once: `__exit__` kills every process that bears the run's mark.
    with start(disturbed) as run:
        assert 0 < _continued_after(run.wait_for("continuing after iteration", 200)) < NUM_ITERATIONS
        assert run.finish(400) == 0, "\n".join(run.lines[-40:])
        assert run.leftovers() == []
    assert any("were sampled before the interruption" in line for line in run.lines), "\n".join(run.lines)
    noise = [line for line in run.lines if "Warning" in line or "[W" in line]
    assert noise == [], "\n".join(noise)
    assert same_weights(tmp_path / "undisturbed", tmp_path / "disturbed")
    assert records_sampled_twice(tmp_path / "disturbed" / "run" / "replay") == 0


def _moments(directory: Path) -> Callable[..., None]:
    """A wait of up to one iteration (or the given share of it), as long as those of the run in `directory` were."""
    lines = (directory / "run" / "metrics.jsonl").read_text().splitlines()
    seconds = statistics.median(json.loads(line)["time/iteration_seconds"] for line in lines)
    generator = random.Random(SEED)
    return lambda share=1.0: time.sleep(generator.uniform(0.0, share * seconds))


def _continued_after(line: str) -> int:
    """Of the checkpoint that the run goes on from; which one it is depends on the moment of the fault."""
    (iteration,) = re.findall(r"continuing after iteration (\d+) of", line)
    return int(iteration)


def _kill(pids: list[int]) -> None:
    assert pids, "nothing to kill"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def rank_processes(run: TrainRun) -> dict[str, int]:
    """Process ids of the trainer ranks, by rank; torchrun itself has none."""
    found = {}
    for pid in run.processes("megatron_k15.train_rl"):
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
            found |= {entry.removeprefix("RANK="): pid for entry in environment if entry.startswith("RANK=")}
    return found


def same_weights(one: Path, other: Path) -> bool:
    """Of the exports of two runs, bit for bit."""
    ours, theirs = (load_file(folder / "run" / "hf" / "model.safetensors") for folder in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def records_sampled_twice(folder: Path) -> int:
    """A lost piece would have been sampled again, and be in the log under the same name once more."""
    keys = [read_facts(payload).key for path in sorted(folder.iterdir()) for _, payload in scan(path)]
    assert keys
    return len(keys) - len(set(keys))
