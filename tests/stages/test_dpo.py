"""DPO as a user runs it: it prefers the chosen, computes the reference once, stops and goes on."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_k15.data.chat import ChatEncoder
from megatron_k15.data.preferences import encode_pair
from megatron_k15.models.tokenizer import load_tokenizer
from megatron_k15.rows.files import BadRowError
from megatron_k15.train_dpo import main
from tests.conftest import VOCAB_SIZE
from tests.data.chat_model import chat_model, turns, write_rows
from tests.stages.program import assert_same_run, losses, records, run_arguments, run_stopped

PHASES = """
beta: 0.5
phases:
  - {sequence_tokens: 256, learning_rate: 5e-4, min_learning_rate: 1e-4, packs_per_step: 2, num_epochs: 2}
"""
ROWS = [{"prompt": f"{i}+1?", "chosen": str(i + 1), "rejected": str(i + 1) + " or so" * (i % 3 + 1)} for i in range(16)]


def test_it_prefers_the_chosen_and_a_stopped_run_ends_as_an_undisturbed_one(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "phases.yaml").write_text(PHASES)
    model = chat_model(tiny_model_dir, tmp_path / "model")
    start = run_arguments(model, write_rows(tmp_path / "rows.jsonl", ROWS), tmp_path / "phases.yaml")
    whole = tmp_path / "whole"
    assert main([*start, f"run_dir={whole}"]) == 0
    # The policy begins as its own reference: every margin is 0.
    assert losses(whole)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses(whole)[-1] < 0.5
    assert records(whole)[-1]["train/accuracy"] == 1.0
    _check_reference(whole, model)
    capsys.readouterr()
    again = [*start, f"run_dir={tmp_path / 'stopped'}", "checkpoint.every_iterations=1"]
    run_stopped(main, again, 2, monkeypatch)
    assert capsys.readouterr().out.count("computing the reference's logprobs: done") == 1
    assert_same_run(tmp_path / "stopped", whole)


def _check_reference(run_dir: Path, model_dir: Path) -> None:
    """What is kept is the start model's own, of the answer and its end alone."""
    kept = [json.loads(line)["sum"] for line in (run_dir / "reference_sums.jsonl").read_text().splitlines()[1:]]
    assert len(kept) == 2 * len(ROWS)
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    encoder = ChatEncoder(tokenizer=load_tokenizer(model_dir), vocab_size=VOCAB_SIZE)
    for number in (0, 5):
        for ours, encoded in zip(kept[2 * number :], encode_pair(ROWS[number], encoder), strict=False):
            tokens = torch.tensor(encoded.token_ids)
            logprobs = model(tokens[None]).logits[0, :-1].log_softmax(-1).gather(-1, tokens[1:, None]).squeeze(-1)
            assert ours == pytest.approx(logprobs[torch.tensor(encoded.loss_mask)[1:]].sum().item(), abs=1e-3)


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"prompt": "1", "chosen": "2", "rejected": "2"}, "must differ; they are the same"),
        ({"prompt": "1", "chosen": "2"}, "`rejected` must be a text that is not empty; got None"),
        ({"chosen": "2", "rejected": "3"}, "either `prompt` or `messages`"),
        ({"messages": turns("1", "2"), "chosen": "2", "rejected": "3"}, "must end before the assistant's turn"),
    ],
)
def test_bad_rows_are_refused_with_their_rule(tiny_model_dir: Path, tmp_path: Path, row: dict, rule: str) -> None:
    model = chat_model(tiny_model_dir, tmp_path / "model")
    encoder = ChatEncoder(tokenizer=load_tokenizer(model), vocab_size=VOCAB_SIZE)
    with pytest.raises(BadRowError, match=rule):
        encode_pair(row, encoder)


def test_only_the_last_turn_is_in_the_loss(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = chat_model(tiny_model_dir, tmp_path / "model")
    encoder = ChatEncoder(tokenizer=load_tokenizer(model), vocab_size=VOCAB_SIZE)
    row = {"messages": turns("1", "first", "2"), "chosen": "good", "rejected": "bad"}
    for encoded, answer in zip(encode_pair(row, encoder), ("good", "bad"), strict=True):
        seen = [token for token, kept in zip(encoded.token_ids, encoded.loss_mask, strict=True) if kept]
        assert encoder.tokenizer.decode(seen) == f"{answer}<eos>"
