"""The classic reward model as a source of verdicts: batches, cache, limits; a real vLLM scores as transformers."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from megatron_k15.config import EngineConfig, RewardModelConfig
from megatron_k15.data.correctness import JudgementEncoder
from megatron_k15.engines.client import read_scores
from megatron_k15.engines.pool import EnginePool
from megatron_k15.errors import ConfigError, EngineError, ModelError
from megatron_k15.reward_parts import open_judge
from megatron_k15.rewards.classic.judge import MAX_BATCH, ClassicJudge
from megatron_k15.rewards.verdict_cache import VerdictCache
from megatron_k15.rewards.verdicts import AnswerPair, Verdict

CONFIG = RewardModelConfig(kind="classic", path="m", engine=EngineConfig(max_model_len=32))


def pair(given: str) -> AnswerPair:
    return AnswerPair(question="1 + 1?", reference="2", given=given, response=f"It is {given}.")


class Model:
    """A score above 0 for what begins with a 7."""

    def __init__(self, failures: int = 0) -> None:
        self.batches: list[int] = []
        self._failures = failures

    async def scores(self, sequences: Sequence[Sequence[int]], limit_seconds: float) -> list[float]:
        self.batches.append(len(sequences))
        if self._failures:
            self._failures -= 1
            raise EngineError("gone")
        return [1.0 if tokens[0] == 7 else -1.0 for tokens in sequences]


def encode(pair: AnswerPair) -> tuple[int, ...] | None:
    return None if pair.given == "?" else tuple(int(character) for character in pair.given)


def judge(model: Model, cache: VerdictCache, *given: str, name: str = "m") -> list[Verdict]:
    source = ClassicJudge(model, encode, CONFIG, cache, model_name=name)
    return asyncio.run(source.judge([pair(text) for text in given]))


def test_verdicts_come_in_batches_and_are_kept(tmp_path: Path) -> None:
    model = Model()
    many = [f"{index % 10}{index}" for index in range(100)]
    cache = VerdictCache(tmp_path / "verdicts.jsonl")
    assert judge(model, cache, *many, "70") == [text[0] == "7" for text in many] + [True]
    assert sorted(model.batches) == [100 - MAX_BATCH + 1, MAX_BATCH]
    cache.close()
    again = VerdictCache(tmp_path / "verdicts.jsonl")
    assert judge(model, again, "70", "11") == [True, False]
    assert len(model.batches) == 2, "known"
    judge(model, again, "70", name="another model")
    assert model.batches[2:] == [1]


def test_what_cannot_be_judged_is_undecided() -> None:
    assert judge(Model(), VerdictCache(None), "?", "7", "1" * 33) == [None, True, None]
    model = Model(failures=1)
    assert judge(model, VerdictCache(None), "7") == [True], "asked again"
    assert judge(Model(failures=CONFIG.num_attempts), VerdictCache(None), "7", "1") == [None, None]


@pytest.mark.parametrize(
    "answer", [{}, {"data": [{"index": 0, "data": [1.0, 2.0]}]}, {"data": [{"index": 0, "data": [float("nan")]}]}]
)
def test_scores_that_are_none_are_refused(answer: dict) -> None:
    with pytest.raises(EngineError, match=r"vLLM must give (one|finite) score"):
        read_scores(answer, 1, who="vLLM")


def test_what_is_no_classic_reward_model_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wants a path"):
        RewardModelConfig(kind="classic", address="http://x")

    async def opened() -> None:
        async with open_judge(RewardModelConfig(kind="classic", path=str(tiny_model_dir)), tmp_path):
            pass

    with pytest.raises(ModelError, match="a model with one label"):
        asyncio.run(opened())


@pytest.fixture
def reward_model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """As train_reward_model exports it, with random weights."""
    torch.manual_seed(3)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / "rm")
    known = json.loads((tiny_model_dir / "config.json").read_text())
    config = LlamaConfig(**{**known, "num_labels": 1, "pad_token_id": None})
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "rm")
    return tmp_path / "rm"


def test_vllm_scores_as_transformers_does(reward_model: Path, tmp_path: Path) -> None:
    config = RewardModelConfig(
        kind="classic",
        path=str(reward_model),
        engine=EngineConfig(max_model_len=256, dtype="fp32", kv_cache_bytes=1 << 26),
    )
    pairs = [pair(text) for text in ("2", "3", "twenty-two", "2 and a bit")]
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    model = AutoModelForSequenceClassification.from_pretrained(reward_model).eval()
    encoder = JudgementEncoder(tokenizer=tokenizer, vocab_size=model.config.vocab_size)
    tokens = [encoder.tokens(one.question, one.reference, one.response) for one in pairs]
    with torch.no_grad():
        expected = [float(model(torch.tensor([one])).logits) for one in tokens]

    async def ask() -> tuple[list[Verdict], Sequence[float]]:
        async with open_judge(config, tmp_path / "logs") as source:
            assert isinstance(source, ClassicJudge)
            pool = source._model
            assert isinstance(pool, EnginePool)
            return list(await source.judge(pairs)), await pool.scores(tokens, 60.0)

    verdicts, scores = asyncio.run(ask())
    assert scores == pytest.approx(expected, abs=1e-4)
    assert verdicts == [score > 0 for score in expected]
