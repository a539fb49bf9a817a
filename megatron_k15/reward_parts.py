"""Builds what judges responses, on rank 0: the scorer, and the reward model with a vLLM of its own."""

import json
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from megatron_k15.config import Config, RewardModelConfig
from megatron_k15.data.correctness import JudgementEncoder
from megatron_k15.engines.pool import EnginePool
from megatron_k15.engines.sidecar import OnProgress
from megatron_k15.errors import ModelError
from megatron_k15.models.identity import model_identity
from megatron_k15.models.package_model import resolve_model
from megatron_k15.models.tokenizer import load_tokenizer
from megatron_k15.parallel.platform import resolve_dtype
from megatron_k15.rewards.classic.judge import ClassicJudge, Encode
from megatron_k15.rewards.cot.judge import Chat, CotJudge
from megatron_k15.rewards.cot.servers import EndpointChat, PoolChat
from megatron_k15.rewards.score import Scorer
from megatron_k15.rewards.second_opinion import SecondOpinion
from megatron_k15.rewards.verdict_cache import VerdictCache
from megatron_k15.rewards.verdicts import AnswerPair, VerdictSource
from megatron_k15.rows.files import BadRowError

CACHE = "reward_model_verdicts.jsonl"
OVERRULED = "reward_model_overruled.jsonl"
"""Both inside the run's folder."""


class RewardParts:
    """`start` is the slow part; without a reward model of the run's own it does nothing."""

    def __init__(self, config: Config, run_dir: Path, stack: ExitStack) -> None:
        """
        Args:
            stack: gets what must be closed at the end.

        Raises:
            K15Error: a bad model directory, or verdicts of an earlier run that cannot be read.
        """
        self._pool: EnginePool | None = None
        self.scorer: Scorer = stack.enter_context(
            Scorer(
                config.reward,
                sandbox=config.sandbox,
                sandbox_log=run_dir / "logs" / "sandbox.log",
                second_opinion=self._second_opinion(config.reward_model, run_dir, stack),
            )
        )

    async def start(self, on_progress: OnProgress) -> None:
        if self._pool is not None:
            await self._pool.start(lambda text: on_progress(f"reward model: {text}"))

    async def stop(self) -> None:
        if self._pool is not None:
            await self._pool.stop()

    def _second_opinion(self, config: RewardModelConfig, run_dir: Path, stack: ExitStack) -> SecondOpinion | None:
        if config.kind == "off":
            return None
        cache = VerdictCache(run_dir / CACHE)
        stack.callback(cache.close)
        judge, self._pool = _judge(config, run_dir / "logs" / "reward_model", cache)
        return SecondOpinion(judge, config, overruled=run_dir / OVERRULED)


def _judge(config: RewardModelConfig, log_dir: Path, cache: VerdictCache) -> tuple[VerdictSource, EnginePool | None]:
    """The reward model, and the pool to start for it where it is not somebody's server."""
    if config.kind == "classic":
        model_dir = resolve_model(config.path)
        pool = _pool(config, model_dir, log_dir, runner="pooling")
        encode = _encode(model_dir)
        return ClassicJudge(pool, encode, config, cache, model_name=model_identity(config.path, model_dir)), pool
    chat, chat_pool = chat_model(config, log_dir)
    return CotJudge(chat, config, cache), chat_pool


def _encode(model_dir: Path) -> Encode:
    """The text that training saw.

    Raises:
        ModelError: not a model with one label.
    """
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    if len(config.get("id2label", {})) != 1:
        raise ModelError(
            f"reward_model.kind=classic wants what train_reward_model exports, a model with one label; {model_dir} is "
            f"{config.get('architectures')}"
        )
    encoder = JudgementEncoder(tokenizer=load_tokenizer(model_dir), vocab_size=config["vocab_size"])

    def encode(pair: AnswerPair) -> tuple[int, ...] | None:
        try:
            return encoder.tokens(pair.question, pair.reference, pair.response or pair.given)
        except BadRowError:
            return None

    return encode


def _pool(config: RewardModelConfig, model_dir: Path, log_dir: Path, *, runner: str) -> EnginePool:
    return EnginePool(
        config.engine,
        model_dir=model_dir,
        dtype=resolve_dtype(config.engine.dtype),
        log_dir=log_dir,
        max_concurrent=config.max_concurrent_requests,
        request_timeout_seconds=config.request_timeout_seconds,
        runner=runner,
    )


def chat_model(config: RewardModelConfig, log_dir: Path) -> tuple[Chat, EnginePool | None]:
    """The judging model, and the pool to start for it where it is not somebody's server."""
    if config.address:
        chat = EndpointChat(config.address, served_name=config.served_name, token_variable=config.token_variable)
        return chat, None
    model_dir = resolve_model(config.path)
    pool = _pool(config, model_dir, log_dir, runner="generate")
    return PoolChat(pool, name=model_identity(config.path, model_dir)), pool


@asynccontextmanager
async def open_judge(config: RewardModelConfig, log_dir: Path) -> AsyncIterator[VerdictSource]:
    """The reward model alone, as a source of verdicts; its vLLM runs inside."""
    judge, pool = _judge(config, log_dir, VerdictCache(None))
    try:
        if pool is not None:
            await pool.start()
        yield judge
    finally:
        if pool is not None:
            await pool.stop()
