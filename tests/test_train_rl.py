"""The program as a user runs it, on the tiny model: trains, resumes, survives, and leaves nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_k15.config import load_config
from megatron_k15.errors import K15Error
from megatron_k15.leader_parts import LeaderParts
from tests.launch import ROOT
from tests.rewards.cot.chat_server import chat_server
from tests.train_run import TrainRun, tiny_overrides


def _records(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_two_ranks_train_then_one_rank_resumes(tiny_model_dir: Path, tmp_path: Path) -> None:
    """TP 2 for two iterations, then the same run directory on one rank for a third."""
    overrides = [*tiny_overrides(tiny_model_dir, tmp_path), "checkpoint.every_iterations=1"]
    run_dir = tmp_path / "run"
    split = ["parallel.tensor_parallel_size=2", "parallel.sequence_parallel=true", "num_iterations=2"]
    with TrainRun([*overrides, *split], num_ranks=2) as first:
        assert first.finish(400) == 0, "\n".join(first.lines[-40:])
        assert first.leftovers() == []
        assert [line for line in first.lines if "Warning" in line or "[W" in line] == []
    asked: list[dict] = []
    with chat_server(asked) as address:
        judged = ["reward_model.kind=cot", f"reward_model.address={address}", "reward_model.served_name=judge"]
        with TrainRun([*overrides, *judged, "num_iterations=3"]) as second:
            assert second.finish(300) == 0, "\n".join(second.lines[-40:])
            assert second.leftovers() == []
            assert [line for line in second.lines if "Warning" in line or "[W" in line] == []
    assert any("continuing after iteration 2 of 3" in line for line in second.lines)
    iterations = [record for record in _records(run_dir) if "reward/mean" in record]
    assert [record["iteration"] for record in iterations] == [0, 1, 2]
    assert all(record["sync/logprob_gap_mean"] < 1e-4 for record in iterations)
    assert all(record["rollout/staleness"] == 0 for record in iterations)
    assert all(record["train/grad_norm"] > 0 for record in iterations)
    # A random model is never right by the rule; the judge of the third iteration finds every answer right.
    assert asked
    assert iterations[-1]["watch/num_asked"] == iterations[-1]["watch/num_made_right"] > 0
    assert iterations[-1]["watch/disagreement"] == 1.0
    assert [record["reward/accuracy"] > 0 for record in iterations] == [False, False, True]
    assert any("reward watch: disagreement is 1.00, above 0.2" in line for line in second.lines)
    # One epoch is 24 prompts: the resumed sampler went on with the permutation of the first run.
    drawn = [
        json.loads(line)["prompt_id"]
        for path in sorted((run_dir / "samples").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len(set(drawn)) == 12
    _check_export(run_dir / "hf", tiny_model_dir)


def _check_export(exported: Path, start: Path) -> None:
    ours = AutoModelForCausalLM.from_pretrained(exported)
    before = AutoModelForCausalLM.from_pretrained(start)
    assert AutoTokenizer.from_pretrained(exported)("1 + 1 =").input_ids
    moved = [(a - b).abs().max().item() for a, b in zip(ours.parameters(), before.parameters(), strict=True)]
    assert all(0 < change < 0.02 for change in moved)
    assert torch.isfinite(ours(torch.tensor([[1, 2, 3]])).logits).all()


def test_a_killed_vllm_is_replaced_and_ctrl_c_leaves_nothing(tiny_model_dir: Path, tmp_path: Path) -> None:
    with TrainRun([*tiny_overrides(tiny_model_dir, tmp_path), "num_iterations=1000"]) as run:
        run.wait_for("iteration 0 |", 200)
        (engine,) = run.processes("VLLM::EngineCore")
        os.kill(engine, signal.SIGKILL)
        run.wait_for("vLLM 0 is restarted (1)", 60)
        run.wait_for("weights, version", 120)
        run.wait_for("| reward", 120)
        run.interrupt()
        assert run.finish(60) == 130, "\n".join(run.lines[-40:])
        assert run.lines[-1] == "interrupted: vLLM is stopped, shared memory is cleared"
        assert run.leftovers() == []


def test_a_hung_rank_ends_the_run_within_the_limit(tiny_model_dir: Path, tmp_path: Path) -> None:
    limit_seconds = 50  # the ranks wait for vLLM's start too
    split = ["parallel.tensor_parallel_size=2", f"wait_timeout_seconds={limit_seconds}", "num_iterations=1000"]
    with TrainRun([*tiny_overrides(tiny_model_dir, tmp_path), *split], num_ranks=2) as run:
        run.wait_for("iteration 0 |", 200)
        *_, rank = run.processes("megatron_k15.train_rl")
        os.kill(rank, signal.SIGSTOP)
        assert run.finish(limit_seconds + 90) == 1, "\n".join(run.lines[-40:])
        assert run.leftovers() == []
    assert any("Timed out" in line or "must answer within" in line for line in run.lines), "\n".join(run.lines[-40:])


BROKEN_FILES = {
    "broken line": ('{"prompt": "1 + 1 =", "answer": "2"}\n{"prompt": \n', r"train\.jsonl:2"),
    "empty answer": ('{"prompt": "1 + 1 =", "answer": ""}\n', "answer"),
    "invalid UTF-8": (b'{"prompt": "\xff", "answer": "2"}\n', "UTF-8"),
}


@pytest.mark.parametrize("what", BROKEN_FILES)
def test_broken_prompts_are_refused_before_anything_starts(what: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    content, message = BROKEN_FILES[what]
    overrides = tiny_overrides(tiny_model_dir, tmp_path)
    (tmp_path / "train.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    _refused(overrides, message, tmp_path)


def test_a_missing_shard_is_refused_before_anything_starts(tmp_path: Path) -> None:
    from tests.models.tiny_models import build

    model = build(tmp_path / "model", "llama", sharded=True)
    shard = sorted(model.glob("*.safetensors"))[1]
    shard.unlink()
    _refused(tiny_overrides(model, tmp_path), shard.name, tmp_path)


def test_sequences_that_do_not_fit_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    overrides = [*tiny_overrides(tiny_model_dir, tmp_path), "engine.max_model_len=40"]
    _refused(overrides, r"max_prompt_tokens \(32\) \+ rollout.max_response_tokens \(12\) must fit", tmp_path)


def _refused(overrides: list[str], message: str, directory: Path) -> None:
    with ExitStack() as stack, pytest.raises(K15Error, match=message):
        LeaderParts(load_config(None, overrides), stack, config_yaml="")
    assert not (directory / "run").exists()


def test_an_error_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    result = _program([f"model.path={tmp_path}/nowhere"])
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [f"error: model.path must name a directory with a config.json; {tmp_path}/nowhere has none"]
    assert "Traceback" not in result.stderr


def test_under_torchrun_the_last_words_are_the_reason(tmp_path: Path) -> None:
    with TrainRun([f"model.path={tmp_path}/nowhere"], num_ranks=2) as run:
        assert run.finish(120) != 0
    message = f"model.path must name a directory with a config.json; {tmp_path}/nowhere has none"
    cause = next(index for index, line in enumerate(run.lines) if "Root Cause" in line)
    # Whichever rank torchrun takes for the first: one that lost its peers tells their reason.
    assert any(message in line for line in run.lines[cause:]), "\n".join(run.lines)
    assert run.lines.count(f"error: {message}") == 1, "rank 0 alone prints it"


def test_a_taken_port_is_one_clear_error(tiny_model_dir: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = _program(
            tiny_overrides(tiny_model_dir, tmp_path),
            {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        )
    assert result.returncode == 1
    assert f"must meet the others at 127.0.0.1:{port}" in result.stderr
    assert "Traceback" not in result.stderr


def test_dry_run_prints_config_and_plan(tiny_model_dir: Path, tmp_path: Path) -> None:
    result = _program(
        ["--dry-run", *tiny_overrides(tiny_model_dir, tmp_path), "parallel.tensor_parallel_size=2"], {"WORLD_SIZE": "4"}
    )
    assert result.returncode == 0, result.stderr
    assert "max_response_tokens: 12" in result.stdout
    assert "ranks       4 = tensor 2 x pipeline 1 x data 2" in result.stdout
    assert "tensor: [0, 1] [2, 3]" in result.stdout
    assert not (tmp_path / "run").exists()


def _program(arguments: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "megatron_k15.train_rl", *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
