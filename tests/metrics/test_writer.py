"""What a run keeps: JSONL that stays JSON and has every iteration once, samples, curves, wandb that cannot stop it."""

import json
import math
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_k15.config import MetricsConfig
from megatron_k15.metrics import MetricsWriter, wandb_feed
from tests.metrics.groups import group

PLAIN = MetricsConfig(tensorboard=False, wandb="off")
VALUES = {
    "reward/mean": 0.25,
    "reward/accuracy": 0.5,
    "rollout/mean_response_tokens": 12.0,
    "rollout/staleness": 1.5,
    "time/rollout_seconds": 3.25,
    "time/train_seconds": 2.0,
    "time/sync_seconds": 0.5,
    "time/iteration_seconds": 5.75,
    "time/tokens_per_second": 321.4,
    "sync/logprob_gap_mean": 1.2e-5,
}


def records(run_dir: Path) -> list[dict[str, float]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def order(run_dir: Path) -> list[tuple[str, float]]:
    return [(str(record["kind"]), record["iteration"]) for record in records(run_dir)]


def write(run_dir: Path, start: int, end: int, config: MetricsConfig = PLAIN) -> None:
    with MetricsWriter(run_dir, config, resolved_config_yaml="seed: 0\n", say=lambda line: None) as writer:
        if start == 0:
            writer.write_evaluation(0, {"accuracy": 0.5})
        for iteration in range(start, end):
            writer.write(iteration, {"reward/mean": start + iteration / 10}, [group("a", ["x"])])
        writer.write_evaluation(end, {"accuracy": 0.75})


def test_the_iteration_line_says_it_all(tmp_path: Path) -> None:
    lines: list[str] = []
    with MetricsWriter(tmp_path, PLAIN, resolved_config_yaml="", say=lines.append) as writer:
        writer.write(3, VALUES, [])
    assert lines == [
        "iteration 3 | reward 0.250 | accuracy 0.500 | length 12.0 tokens | rollout 3.2 s | train 2.0 s | sync 0.5 s"
        " | speed 321 tokens/s | staleness 1.50 | logprob gap 1.2e-05"
    ]


def test_values_that_json_has_not_become_null(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path, PLAIN, resolved_config_yaml="", say=lambda line: None) as writer:
        writer.write(0, {"reward/mean": math.nan, "a": math.inf, "b": -math.inf, "c": 1}, [])
    (record,) = records(tmp_path)
    assert (record["reward/mean"], record["a"], record["b"], record["c"]) == (None, None, None, 1.0)


def test_a_resumed_run_has_every_record_once(tmp_path: Path) -> None:
    write(tmp_path, 0, 5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "iteration", "itera')  # a kill in the middle of a line
    write(tmp_path, 3, 6)
    expected = [("evaluation", 0), *(("iteration", n) for n in range(6)), ("evaluation", 6)]
    assert order(tmp_path) == expected
    assert [record["reward/mean"] for record in records(tmp_path)[1:7]] == [0.0, 0.1, 0.2, 3.3, 3.4, 3.5]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        f"iteration_{n:05d}.jsonl" for n in range(6)
    ]


def test_an_evaluation_before_the_resumed_iteration_stays(tmp_path: Path) -> None:
    write(tmp_path, 0, 3)
    with MetricsWriter(tmp_path, PLAIN, resolved_config_yaml="", say=lambda line: None) as writer:
        writer.write(3, {}, [])
    assert order(tmp_path)[-2:] == [("evaluation", 3), ("iteration", 3)]
    with MetricsWriter(tmp_path, PLAIN, resolved_config_yaml="", say=lambda line: None) as writer:
        writer.write_evaluation(3, {})
    assert order(tmp_path)[-2:] == [("iteration", 2), ("evaluation", 3)]


def test_samples_are_spread_over_the_groups(tmp_path: Path) -> None:
    groups = [group(name, ["one", "two\x00\ud800", "three"]) for name in "abcd"]
    for count, expected in [(4, "abcd"), (2, "ac"), (6, "aabccd")]:
        config = MetricsConfig(tensorboard=False, wandb="off", num_samples_saved=count)
        with MetricsWriter(tmp_path / str(count), config, resolved_config_yaml="", say=lambda line: None) as writer:
            writer.write(0, {}, groups)
        lines = (tmp_path / str(count) / "samples" / "iteration_00000.jsonl").read_text().splitlines()
        samples = [json.loads(line) for line in lines]
        assert "".join(sample["prompt_id"] for sample in samples) == expected
        assert len({(sample["prompt_id"], sample["sample_index"]) for sample in samples}) == count
    assert samples[0]["parts"] == {"answer": 1.0, "length": 0.25}
    assert (samples[0]["response"], samples[0]["finish_reason"], samples[0]["correct"]) == ("one", "stop", True)


def test_no_samples_are_saved_when_none_are_asked_for(tmp_path: Path) -> None:
    config = MetricsConfig(tensorboard=False, wandb="off", num_samples_saved=0)
    with MetricsWriter(tmp_path, config, resolved_config_yaml="", say=lambda line: None) as writer:
        writer.write(0, {}, [group("a", ["x"])])
    assert not (tmp_path / "samples").exists()


def test_tensorboard_shows_the_resumed_run(tmp_path: Path) -> None:
    write(tmp_path, 0, 5, MetricsConfig(wandb="off"))
    write(tmp_path, 3, 6, MetricsConfig(wandb="off"))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    curve = [(event.step, round(event.value, 3)) for event in events.Scalars("reward/mean")]
    assert curve == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 3.3), (4, 3.4), (5, 3.5)]


def test_wandb_writes_an_offline_run(tmp_path: Path) -> None:
    lines: list[str] = []
    config = MetricsConfig(tensorboard=False)  # offline is the default
    with MetricsWriter(tmp_path, config, resolved_config_yaml="seed: 0\n", say=lines.append) as writer:
        writer.write(0, {"reward/mean": math.nan, "a": 0.5}, [])
    assert [line for line in lines if "wandb" in line] == []
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"reward/mean" in file.read_bytes()


@pytest.mark.parametrize("fault", ["raises", "hangs", "killed"])
def test_a_failing_wandb_costs_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """A `wandb` module of our own, first on the path of the process that talks to wandb."""
    (tmp_path / "wandb.py").write_text(
        {
            "raises": "raise OSError('no network')",
            "hangs": "import time; time.sleep(600)",
            "killed": "import os; os.abort()",
        }[fault]
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(wandb_feed, "CLOSE_SECONDS", 1.0)
    lines: list[str] = []
    config = MetricsConfig(tensorboard=False, wandb="online")
    started = time.monotonic()
    with MetricsWriter(tmp_path / "run", config, resolved_config_yaml="seed: 0\n", say=lines.append) as writer:
        for iteration in range(3):
            writer.write(iteration, {"reward/mean": 1.0}, [])
    assert time.monotonic() - started < 10
    (warning,) = [line for line in lines if "wandb" in line]
    assert warning.startswith("warning: wandb is off for the rest of the run: ")
    assert len(records(tmp_path / "run")) == 3
