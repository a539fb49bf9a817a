"""Rules, duplicates, scores: one by one."""

import math

import pytest
import torch

from megatron_k15.corpus.classifier import QualityClassifier
from megatron_k15.corpus.documents import Document
from megatron_k15.corpus.duplicates import Duplicates
from megatron_k15.corpus.model_score import ModelScore, percentiles
from megatron_k15.corpus.rules import broken_rule
from megatron_k15.corpus.settings import CorpusSettings
from megatron_k15.errors import ConfigError

PROSE = "The river rose in the night, and by morning the lower fields lay under a foot of brown water."


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (PROSE, None),
        ("so short", "too_short"),
        ("word " * 300_000, "too_long"),
        ("a" * 50 + " " + "b" * 60, "word_length"),
        ("{}[]();; <> != ++ -- ab && || ~~ ^^", "symbols"),
        ("\n".join(["buy this thing now"] * 12), "repeated_lines"),
        ("\n".join(f"line number {index} of the poem" for index in range(12)), None),
    ],
)
def test_rules(text: str, rule: str | None) -> None:
    assert broken_rule(text, CorpusSettings()) == rule


def test_the_first_of_alike_documents_stays() -> None:
    words = " ".join(f"word{index}" for index in range(100))
    texts = [words, words, words.replace("word50", "another"), words.replace("word1", "x"), PROSE]
    duplicates = Duplicates(CorpusSettings())
    found = [duplicates.found(Document(text=text, where="")) for text in texts]
    # One changed word breaks 5 of 96 pieces: similarity 0.9. "word1" stands at the head of eleven words.
    assert found == [None, "duplicate", "near_duplicate", None, None]
    lenient = Duplicates(CorpusSettings(max_similarity=1.0))
    assert [lenient.found(Document(text=text, where="")) for text in texts[:3]] == [None, "duplicate", None]


def test_a_classifier_learns_what_good_looks_like() -> None:
    good = [f"{PROSE} It was the {index}th of the month." for index in range(40)]
    bad = [f"click here {index} $$$ buy now!!! cheap cheap {index}" for index in range(40)]
    classifier = QualityClassifier()
    assert classifier.fit(good, bad) == 1.0
    fine, poor = classifier.scores(["The fields lay under water in the night.", "buy cheap $$$ click now"])
    assert fine > 0.5 > poor
    again = QualityClassifier()
    again.fit(good, bad)
    assert again.scores(good[:3]) == classifier.scores(good[:3])


def test_a_models_score_is_the_mean_log_likelihood(tiny_model_dir) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = "some text to read"
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_model_dir),
        AutoTokenizer.from_pretrained(tiny_model_dir),
    )
    tokens = torch.tensor(tokenizer.encode(text, add_special_tokens=False))
    logits = model(tokens.unsqueeze(0)).logits[0, :-1]
    expected = logits.log_softmax(-1).gather(1, tokens[1:].unsqueeze(1)).mean()
    found, nothing = ModelScore(tiny_model_dir).scores([text, "a"])
    assert found == pytest.approx(float(expected), abs=1e-5)
    assert nothing == pytest.approx(-math.log(len(tokenizer)))


def test_percentiles_are_the_share_of_lower_ones() -> None:
    assert percentiles([3.0, 1.0, 2.0]) == [1.0, 0.0, 0.5]
    assert percentiles([1.0, 1.0, 2.0]) == [0.25, 0.25, 1.0]
    assert percentiles([5.0]) == [0.0]


def test_rates_are_steps() -> None:
    settings = CorpusSettings(rates=((0.0, 0.0), (0.5, 1.0), (0.9, 2.0)))
    assert [settings.rate(score) for score in (0.0, 0.49, 0.5, 0.89, 0.9, 1.0)] == [0, 0, 1, 1, 2, 2]
    for wrong in (((0.1, 1.0),), ((0.0, 1.0), (0.5, -1.0)), ((0.0, 1.0), (0.5, 1.0), (0.3, 1.0))):
        with pytest.raises(ConfigError, match="rates must"):
            CorpusSettings(rates=wrong)
