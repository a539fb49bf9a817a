"""SFT as a user runs it, on the tiny model: learns, stops and goes on, says what is wrong."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_k15.train_sft import main
from tests.data.chat_model import chat_model, sums, write_rows
from tests.stages.program import assert_same_run, losses, records, run_arguments, run_stopped

PHASES = """
phases:
  - {sequence_tokens: 256, learning_rate: 2e-3, min_learning_rate: 1e-3, packs_per_step: 2, num_epochs: 2}
  - {sequence_tokens: 512, learning_rate: 1e-3, min_learning_rate: 1e-4, packs_per_step: 2, warmup_steps: 1}
"""


@pytest.fixture
def start(tiny_model_dir: Path, tmp_path: Path) -> list[str]:
    """A run's arguments, but for its directory."""
    (tmp_path / "phases.yaml").write_text(PHASES)
    model = chat_model(tiny_model_dir, tmp_path / "model")
    return run_arguments(model, write_rows(tmp_path / "chats.jsonl", sums(40)), tmp_path / "phases.yaml")


def test_it_learns_and_a_stopped_run_ends_as_an_undisturbed_one(
    start: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped within an epoch, a step after a checkpoint, and in another run exactly at the epochs' boundary."""
    whole = tmp_path / "whole"
    assert main([*start, f"run_dir={whole}"]) == 0
    steps = losses(whole)
    assert f"training for {len(steps)} steps" in capsys.readouterr().out
    assert steps[-1] < 0.8 * steps[0]
    _check_export(whole / "hf")
    boundary = [record["data/epoch"] for record in records(whole)].index(1.0)
    for every, stop_at in ((2, 3), (boundary, boundary)):
        run_dir = tmp_path / f"stopped_{every}_{stop_at}"
        again = [*start, f"run_dir={run_dir}", f"checkpoint.every_iterations={every}"]
        run_stopped(main, again, stop_at, monkeypatch)
        assert f"continuing after step {stop_at // every * every} of {len(steps)}" in capsys.readouterr().out
        assert_same_run(run_dir, whole)
    # A finished run has nothing left to do; one with other data or phases does not go on.
    assert main(again) == 0
    assert "nothing is left to train" in capsys.readouterr().out
    write_rows(tmp_path / "chats.jsonl", sums(41))
    assert main(again) == 1
    assert "was made with other data: a run goes on only with what it began with" in capsys.readouterr().err


def _check_export(directory: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "3+1"}], tokenize=False)
    assert torch.isfinite(model(torch.tensor([tokenizer(text)["input_ids"]])).logits).all()


def test_what_is_wrong_is_one_line(start: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = sums(1)[0]
    rows = ["{broken", {"messages": []}, {"messages": [{"role": "robot", "content": "x"}]}, good]
    write_rows(tmp_path / "chats.jsonl", rows)
    assert main([*start, f"run_dir={tmp_path / 'run'}"]) == 1
    error = capsys.readouterr().err
    for text in ("error: data: 3 bad lines", "chats.jsonl:1: must be one JSON object", ":2: ", "got 'robot'"):
        assert text in error
    assert main([*start, f"run_dir={tmp_path / 'run'}", "data.bad_lines=skip", "--dry-run"]) == 0
    assert "2 epoch(s), 2 packs of 256 tokens per step" in capsys.readouterr().out
    long = {"messages": [{"role": "user", "content": "x" * 300}, {"role": "assistant", "content": "y"}]}
    write_rows(tmp_path / "chats.jsonl", [good, long])
    assert main([*start, f"run_dir={tmp_path / 'run'}"]) == 1
    assert "1 of 2 are longer than the sequence_tokens of phase 0, 256; the longest, " in capsys.readouterr().err
    assert main([*start, f"run_dir={tmp_path / 'run'}", "data.too_long=skip"]) == 0
    assert "left out: 1 of 2 are longer" in capsys.readouterr().out
