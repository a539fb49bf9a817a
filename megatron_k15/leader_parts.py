"""Builds what rank 0 has besides its trainer: prompts, rewards, vLLM, metrics. Whatever is wrong with the user's input
is found here, before anything is started."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_k15.checkpoint.resume import find_newest
from megatron_k15.colocate import Colocation
from megatron_k15.config import Config, EngineConfig
from megatron_k15.engines.gpu_placement import instance_gpus
from megatron_k15.engines.joining.member import read_token
from megatron_k15.engines.joining.metadata import C10dMetadata, EtcdMetadata, MetadataStore
from megatron_k15.engines.joining.roster import Roster
from megatron_k15.engines.model_facts import vocab_size
from megatron_k15.engines.plugin import VLLM_BACKENDS
from megatron_k15.engines.pool import EnginePool
from megatron_k15.engines.update_control import UpdateControl
from megatron_k15.errors import ConfigError
from megatron_k15.event_loop import EventLoopThread
from megatron_k15.master import Master
from megatron_k15.metrics import MetricsWriter, Progress
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.hf_files import HfWeights
from megatron_k15.models.package_model import resolve_model
from megatron_k15.models.tokenizer import load_tokenizer
from megatron_k15.parts import Parts
from megatron_k15.prompts.prompt_set import load_prompt_sets
from megatron_k15.replay.buffer import ReplayBuffer
from megatron_k15.reward_parts import RewardParts
from megatron_k15.trainer_group import TrainerGroup
from megatron_k15.trainer_parts import CHECKPOINTS, engine_dtype, transfer_backend
from megatron_k15.weight_sync import WeightSync

REPLAY = "replay"
"""The replay buffer's folder inside the run's."""


class LeaderParts:
    """Construction checks everything that can be checked; `start_engines` is the first slow thing."""

    def __init__(self, config: Config, stack: ExitStack, *, config_yaml: str) -> None:
        """
        Args:
            stack: gets what must be stopped or closed at the end, in reverse order.

        Raises:
            K15Error: a bad model directory, prompt file, config, or run directory.
        """
        self._config = config
        self.progress = Progress()
        self.run_dir = Path(config.run_dir)
        self.export_dir = Path(config.checkpoint.export_dir or self.run_dir / "hf")
        with self.progress.phase(f"reading the model {config.model.path} and the prompts"):
            self._model_dir = resolve_model(config.model.path)
            architecture = Architecture.from_hf(self._model_dir)
            HfWeights.open(self._model_dir, architecture)
            self._tokenizer = load_tokenizer(self._model_dir)
            self._prompts = load_prompt_sets(
                config.prompts,
                config.evaluation,
                tokenizer=self._tokenizer,
                chat_template=config.model.chat_template,
                seed=config.seed,
            )
        _check_lengths(config, architecture)
        self._newest = find_newest(self.run_dir / CHECKPOINTS) if config.checkpoint.resume else None
        self._loop = stack.enter_context(EventLoopThread())
        self._rewards = RewardParts(config, self.run_dir, stack)
        self._rewards.scorer.prepare([*self._prompts.train, *self._prompts.held_out])
        self._metrics = stack.enter_context(
            MetricsWriter(self.run_dir, config.metrics, resolved_config_yaml=config_yaml, say=self.progress.say)
        )
        self._replay = _replay_buffer(config, self.run_dir)
        stack.callback(self._replay.close)
        self._backend = transfer_backend(config)
        self._pool = EnginePool(
            config.engine,
            backend=VLLM_BACKENDS[self._backend],
            gpus=_gpus(config.engine, self._backend),
            model_dir=self._model_dir,
            dtype=engine_dtype(config),
            log_dir=self.run_dir / "logs",
            max_concurrent=config.rollout.max_concurrent_requests,
            request_timeout_seconds=config.rollout.request_timeout_seconds,
            weight_timeout_seconds=config.transfer.timeout_seconds,
            colocate=config.colocate.mode,
            roster=_roster(config, self._model_dir) if config.join.listen else None,
        )
        stack.callback(self._stop_engines)

    def start_engines(self, on_progress: Callable[[str], None]) -> Future[None]:
        """Start vLLM on the event loop's thread; the caller builds the trainer meanwhile."""

        async def start() -> None:
            await asyncio.gather(self._pool.start(on_progress), self._rewards.start(on_progress))
            if self._backend == "shared_memory":
                await self._pool.init_weight_transfer({})

        return self._loop.start(start())

    def update_control(self) -> UpdateControl:
        """vLLM's weight updates in the trainer's hands, for ipc and nccl."""
        seconds, engine = self._config.transfer.timeout_seconds, self._config.engine
        return UpdateControl(
            self._pool,
            lambda coroutine, waiting_for: self._loop.run(coroutine, seconds=seconds, waiting_for=waiting_for),
            tensor_parallel_size=engine.tensor_parallel_size,
            num_engines=engine.num_engines,
        )

    def wait_for_engines(self, starting: Future[None]) -> None:
        limit = self._config.engine.startup_timeout_seconds + 60.0
        self._loop.wait(starting, seconds=limit, waiting_for="vLLM to start")

    def _stop_engines(self) -> None:
        async def stop() -> None:
            await asyncio.gather(self._pool.stop(), self._rewards.stop())

        self._loop.run(stop(), seconds=60.0, waiting_for="vLLM to stop")

    def parts(self, trainers: TrainerGroup) -> Parts:
        config = self._config
        sync = WeightSync(trainers, self._pool, self._loop, self.progress, config.transfer, dtype=engine_dtype(config))
        return Parts(
            prompts=self._prompts,
            pool=self._pool,
            scorer=self._rewards.scorer,
            replay=self._replay,
            trainers=trainers,
            sync=sync,
            colocation=Colocation(trainers, self._pool, sync, self._loop, self.progress, config),
            metrics=self._metrics,
            progress=self.progress,
            loop=self._loop,
            decode=lambda token_ids: self._tokenizer.decode(token_ids, skip_special_tokens=True),
        )

    def resume(self, master: Master, trainers: TrainerGroup) -> None:
        """Continue from the newest good checkpoint of the run directory, where there is one, and with what was sampled
        since."""
        if self._newest is not None:
            with self.progress.phase(f"resuming from {self._newest}"):
                master.load_state(trainers.load(str(self._newest)), self._newest)
            if master.iteration >= self._config.num_iterations:
                self.progress.say(
                    f"nothing is left to train: this run has its {self._config.num_iterations} iterations. Raise "
                    "num_iterations to go on, or start anew with checkpoint.resume=false or another run_dir"
                )
            else:
                self.progress.say(f"continuing after iteration {master.iteration} of {self._config.num_iterations}")
        if recovered := self._replay.journal.num_recovered(master.iteration):
            self.progress.say(f"{recovered} responses were sampled before the interruption: they are not sampled again")


def _roster(config: Config, model_dir: Path) -> Roster:
    token = read_token(config.join.token_variable)
    store: MetadataStore
    if config.join.etcd:
        store = EtcdMetadata(config.join.etcd)
    else:
        store = C10dMetadata(dist.distributed_c10d._get_default_store().clone())
    return Roster(
        config.join,
        store,
        token=token,
        model_dir=model_dir,
        dtype=engine_dtype(config),
        engine=config.engine,
        vocab_size=vocab_size(model_dir),
        weight_timeout_seconds=config.transfer.timeout_seconds,
    )


def _replay_buffer(config: Config, run_dir: Path) -> ReplayBuffer:
    directory = run_dir / REPLAY
    if not config.checkpoint.resume:
        shutil.rmtree(directory, ignore_errors=True)
    decides = (
        config.seed,
        config.model,
        config.prompts,
        config.rollout,
        config.train,
        config.reward,
        config.reward_model,
    )
    digest = hashlib.sha256(f"{decides!r} {engine_dtype(config)}".encode()).hexdigest()
    return ReplayBuffer(directory, run=digest[:16])


def _gpus(engine: EngineConfig, backend: str) -> list[tuple[int, ...]] | None:
    """Each vLLM instance's GPUs; None on CPUs."""
    if not torch.cuda.is_available():
        return None
    sizes = {"num_gpus": torch.cuda.device_count(), "num_local_ranks": int(os.environ.get("LOCAL_WORLD_SIZE", "1"))}
    return [
        instance_gpus(index, engine.tensor_parallel_size, backend=backend, **sizes)
        for index in range(engine.num_engines)
    ]


def _check_lengths(config: Config, architecture: Architecture) -> None:
    """The longest prompt plus the longest response must fit, in vLLM and in the model."""
    longest = config.prompts.max_prompt_tokens + config.rollout.max_response_tokens
    if longest > config.engine.max_model_len:
        raise ConfigError(
            f"prompts.max_prompt_tokens ({config.prompts.max_prompt_tokens}) + rollout.max_response_tokens "
            f"({config.rollout.max_response_tokens}) must fit into engine.max_model_len ({config.engine.max_model_len})"
        )
    if config.engine.max_model_len > architecture.max_positions:
        raise ConfigError(
            f"engine.max_model_len ({config.engine.max_model_len}) must not exceed the model's longest sequence, "
            f"{architecture.max_positions}"
        )
