"""The classic reward model as a user trains it: it learns, and transformers loads it with equal scores."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from megatron_k15.data.correctness import JudgementEncoder
from megatron_k15.rows.files import BadRowError
from megatron_k15.train_reward_model import main
from megatron_k15.training.correctness import Correctness
from tests.conftest import EOS, VOCAB_SIZE
from tests.data.chat_model import write_rows
from tests.stages.program import assert_same_run, losses, records, run_arguments, run_stopped

PHASES = """
phases:
  - sequence_tokens: 512
    packs_per_step: 4
    num_epochs: 16
    learning_rate: 2e-4
    min_learning_rate: 1e-4
    warmup_steps: 3
"""
ROWS = [
    {"question": f"{i}+1?", "reference": str(i + 1), "response": "right" if i % 3 else "wrong", "correct": bool(i % 3)}
    for i in range(24)
]


def test_it_learns_stops_goes_on_and_transformers_scores_alike(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "phases.yaml").write_text(PHASES)
    start = run_arguments(tiny_model_dir, write_rows(tmp_path / "rows.jsonl", ROWS), tmp_path / "phases.yaml")
    ours: dict[tuple[int, ...], float] = {}
    with monkeypatch.context() as watched:
        watched.setattr(Correctness, "scores", _recording(Correctness.scores, ours))
        # The last step's scores are of the weights before it: a rate of nothing leaves these the exported ones.
        no_rate = [
            "checkpoint.every_iterations=0",
            "train.optimizer=sgd",
            "parallel.use_distributed_optimizer=false",
            "train.clip_grad_norm=1e-12",
        ]
        assert main([*start, *no_rate, f"run_dir={tmp_path / 'still'}"]) == 0
    _check_scores(tmp_path / "still" / "hf", ours)
    assert main([*start, f"run_dir={tmp_path / 'whole'}"]) == 0
    assert losses(tmp_path / "whole")[-1] < 0.7 * losses(tmp_path / "whole")[0]
    assert records(tmp_path / "whole")[-1]["train/accuracy"] > 0.8
    run_stopped(main, [*start, f"run_dir={tmp_path / 'stopped'}", "checkpoint.every_iterations=8"], 9, monkeypatch)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def _recording(plain, found: dict[tuple[int, ...], float]):  # type: ignore[no-untyped-def]
    """`Correctness.scores` that also keeps each sequence's score."""

    def scores(self, batch, head):  # type: ignore[no-untyped-def]
        values = plain(self, batch, head)
        tokens, ends = batch.tokens.token_ids_T.tolist(), (batch.last_S + 1).tolist()
        for start, end, value in zip([0, *ends], ends, values.tolist(), strict=False):
            found[tuple(tokens[start:end])] = value
        return values

    return scores


def _check_scores(directory: Path, ours: dict[tuple[int, ...], float]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    assert type(model).__name__ == "LlamaForSequenceClassification"
    assert model.config.num_labels == 1
    assert model.score.weight.shape == (1, 128)
    encoder = JudgementEncoder(tokenizer=AutoTokenizer.from_pretrained(directory), vocab_size=VOCAB_SIZE)
    assert len(ours) == len(ROWS)
    for row in ROWS[:6]:
        tokens = encoder.tokens(row["question"], row["reference"], row["response"])
        assert tokens[-1] == EOS
        theirs = model(torch.tensor([tokens])).logits
        assert theirs.shape == (1, 1)
        assert theirs.item() == pytest.approx(ours[tokens], abs=2e-5)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"correct": "yes"}, "`correct` must be true or false; got 'yes'"),
        ({"reference": None}, "`reference` must be text; got NoneType"),
    ],
)
def test_bad_rows_are_refused_with_their_rule(tiny_model_dir: Path, change: dict, rule: str) -> None:
    encoder = JudgementEncoder(tokenizer=AutoTokenizer.from_pretrained(tiny_model_dir), vocab_size=VOCAB_SIZE)
    with pytest.raises(BadRowError, match=rule):
        encoder.encode({**ROWS[0], **change})


def test_a_response_cannot_spell_the_end_of_its_sequence(tiny_model_dir: Path) -> None:
    """The score is taken at the end: it must be ours."""
    encoder = JudgementEncoder(tokenizer=AutoTokenizer.from_pretrained(tiny_model_dir), vocab_size=VOCAB_SIZE)
    tokens = encoder.tokens("1+1?", "2", "3<eos>")
    assert tokens.count(EOS) == 1
    assert encoder.tokenizer.decode(tokens).endswith("Response:\n3<eos><eos>")
