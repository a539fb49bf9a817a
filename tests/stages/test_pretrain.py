"""Pretraining as a user runs it: from nothing through three phases, stopped and gone on with, exported."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_k15.pretrain_stream import PretrainStream
from megatron_k15.train_pretrain import main
from tests.conftest import EOS, VOCAB_SIZE
from tests.data.indexed_data import write_indexed
from tests.stages.program import assert_same_run, losses, records, run_stopped


def _config(folder: Path) -> str:
    """Six steps of the first phase are a pass and a half over `words`."""
    rates = {"learning_rate": 3e-3, "min_learning_rate": 1e-3}
    words, long = {"path": f"{folder}/words"}, {"path": f"{folder}/long", "weight": 0.4, "attention": "full"}
    phases = [
        {"name": "language", "sequence_tokens": 64, "num_steps": 6, "sequences_per_step": 4, "data": [words], **rates},
        {"name": "cooldown", "sequence_tokens": 64, "num_steps": 2, "sequences_per_step": 4, "data": [words], **rates},
        {
            "name": "long context",
            "sequence_tokens": 256,
            "num_steps": 3,
            "sequences_per_step": 2,
            "rope_theta": 1e6,
            "data": [{**words, "weight": 0.6}, long],
            **rates,
        },
    ]
    return json.dumps({"from_scratch": True, "phases": phases})


def _documents(count: int, length: int) -> list[list[int]]:
    """Bytes that follow one another: easy to learn."""
    return [[*((index + position) % 32 + 65 for position in range(length)), EOS] for index in range(count)]


@pytest.fixture
def start(tiny_model_dir: Path, tmp_path: Path) -> list[str]:
    write_indexed(tmp_path / "words", _documents(32, 31))
    write_indexed(tmp_path / "long", _documents(4, 300))
    (tmp_path / "pretrain.yaml").write_text(_config(tmp_path))
    return [
        f"--config={tmp_path / 'pretrain.yaml'}",
        f"model.path={tiny_model_dir}",
        "model.dtype=fp32",
        "metrics.tensorboard=false",
        "metrics.wandb=off",
    ]


def test_three_phases_from_nothing_and_a_stopped_run_ends_alike(
    start: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped in the first phase's second pass over its data, and in another run exactly between two phases."""
    whole = tmp_path / "whole"
    assert main([*start, f"run_dir={whole}"]) == 0
    assert losses(whole)[0] == pytest.approx(math.log(VOCAB_SIZE), rel=0.05)
    assert losses(whole)[-1] < 0.8 * losses(whole)[0]
    passes = [record["data/epochs"] for record in records(whole)]
    assert passes[4] == 1.0
    assert [record["data/sequence_tokens"] for record in records(whole)][-3:] == [256] * 3
    _check_export(whole / "hf")
    for every, stop_at in ((4, 5), (8, 8)):
        again = [*start, f"run_dir={tmp_path / f'stopped_{stop_at}'}", f"checkpoint.every_iterations={every}"]
        run_stopped(main, again, stop_at, monkeypatch, PretrainStream)
        assert f"continuing after step {stop_at // every * every} of 11" in capsys.readouterr().out
        assert_same_run(tmp_path / f"stopped_{stop_at}", whole)
    write_indexed(tmp_path / "words", _documents(33, 31))
    assert main(again) == 1
    assert "was made with other data" in capsys.readouterr().err


def test_sequences_computed_together_change_nothing(start: list[str], tmp_path: Path) -> None:
    assert main([*start, f"run_dir={tmp_path / 'one'}"]) == 0
    config = json.loads((tmp_path / "pretrain.yaml").read_text())
    config["phases"] = [{**phase, "sequences_per_micro_batch": 3} for phase in config["phases"]]
    (tmp_path / "pretrain.yaml").write_text(json.dumps(config))
    assert main([*start, f"run_dir={tmp_path / 'three'}"]) == 0
    assert losses(tmp_path / "three") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert main([*start, f"run_dir={tmp_path / 'one'}"]) == 0, "a run may go on so"


def _check_export(directory: Path) -> None:
    """Length and rotary base are the last phase's, and the model predicts what it has seen."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.config.rope_parameters["rope_theta"] == 1e6
    tokens = torch.tensor([_documents(1, 31)[0]])
    assert model(tokens, labels=tokens).loss < 0.8 * math.log(VOCAB_SIZE)


def test_a_start_model_and_what_is_wrong(
    start: list[str], tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [*start, f"run_dir={tmp_path / 'run'}", "from_scratch=false"]
    assert main([*run, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "language: 6 steps of 4 x 64 tokens = 1,536; 1 data set(s), 0% with full attention" in plan
    assert "2 data set(s), 40% with full attention; rate 0.003 to 0.001; rotary base 1e+06" in plan
    with (tmp_path / "long.bin").open("ab") as file:
        file.write(b"xx")
    assert main(run) == 1
    assert "long.idx must fit long.bin" in capsys.readouterr().err
    assert main(["model.path=nowhere"]) == 1
    assert "phases must name at least one phase" in capsys.readouterr().err
