"""Process groups of one run: tensor, pipeline, data. What a rank has to know about its place."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from megatron_k15.config import ParallelConfig
from megatron_k15.errors import ConfigError
from megatron_k15.parallel.cpu_megatron import redirect_cuda
from megatron_k15.parallel.first_failure import first_failure
from megatron_k15.parallel.platform import Platform, choose_platform


@dataclass(frozen=True, kw_only=True)
class ParallelContext:
    """This rank's place. `groups` is megatron-core's collection; pass it on, do not reach for globals."""

    platform: Platform
    config: ParallelConfig
    groups: ProcessGroupCollection
    rank: int
    world_size: int
    tensor_rank: int
    tensor_size: int
    pipeline_rank: int
    pipeline_size: int
    data_rank: int
    data_size: int

    @property
    def num_chunks(self) -> int:
        """Model chunks on this rank: more than one with the interleaved schedule."""
        return self.config.virtual_pipeline_parallel_size or 1

    @property
    def is_last_stage(self) -> bool:
        return self.pipeline_rank == self.pipeline_size - 1


@contextmanager
def initialize(config: ParallelConfig, *, seed: int, timeout_seconds: float = 600.0) -> Iterator[ParallelContext]:
    """Join the run torchrun started (or make a run of one rank) and build the groups; leave both at the end.

    Raises:
        PeerError: inside, where another rank failed first.
        ConfigError: tensor x pipeline does not divide the number of ranks, or the ranks do not find each other.
    """
    with _torchrun_variables():
        platform = _prepare_platform()
        started_here = not dist.is_initialized()
        if started_here:
            _join(platform, timeout_seconds)
        try:
            _build_groups(config, seed=seed, timeout_seconds=timeout_seconds)
            with first_failure():
                yield _context(config)
        finally:
            parallel_state.destroy_model_parallel()
            if started_here:
                dist.destroy_process_group()


@contextmanager
def _torchrun_variables() -> Iterator[None]:
    """Without torchrun, its variables for a run of one rank, and only as long as that lasts: what the process starts
    later must not take them for its own."""
    if "RANK" in os.environ:
        yield
        return
    ours = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    ours |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    before = {name: os.environ[name] for name in ours if name in os.environ}
    os.environ |= ours
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
        os.environ |= before


def _build_groups(config: ParallelConfig, *, seed: int, timeout_seconds: float) -> None:
    world_size, model_size = dist.get_world_size(), config.tensor_parallel_size * config.pipeline_parallel_size
    if world_size % model_size:
        raise ConfigError(
            f"tensor_parallel_size {config.tensor_parallel_size} x pipeline_parallel_size "
            f"{config.pipeline_parallel_size} must divide the number of ranks, {world_size}: start torchrun with a "
            f"multiple of {model_size} processes"
        )
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=config.tensor_parallel_size,
        pipeline_model_parallel_size=config.pipeline_parallel_size,
        virtual_pipeline_model_parallel_size=config.virtual_pipeline_parallel_size,
        distributed_timeout_minutes=max(1, round(timeout_seconds / 60)),
    )
    model_parallel_cuda_manual_seed(seed)


def _prepare_platform() -> Platform:
    """This rank's device, with megatron-core led to it where it is a CPU."""
    platform = choose_platform(int(os.environ["LOCAL_RANK"]))
    if platform.name == "cuda":
        torch.cuda.set_device(platform.device)
    else:
        redirect_cuda()
    return platform


def _join(platform: Platform, timeout_seconds: float) -> None:
    limit = timedelta(seconds=timeout_seconds)
    try:
        store, rank, world_size = next(dist.rendezvous("env://", timeout=limit))
        dist.init_process_group(
            platform.backend, store=_of_this_start(store), rank=rank, world_size=world_size, timeout=limit
        )
    except dist.DistError as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        first_line = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} must meet the others at {address} (MASTER_ADDR "
            f"and MASTER_PORT, set by torchrun): {first_line}. If another program has the port, choose one with "
            "torchrun --master-port, or let torchrun choose with --standalone"
        ) from error


def _of_this_start(store: dist.Store) -> dist.Store:
    """torchrun (2.13) gives restarted ranks the store of those that died, with their addresses in it, and gloo's groups
    would wait for them for ever. On one host the restart count tells the starts apart; hosts count for themselves, so
    with several of them torchrun must not share its store (examples/smollm2_math/launch_multi_node.sh)."""
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        return store
    return dist.PrefixStore(f"megatron_k15/start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _context(config: ParallelConfig) -> ParallelContext:
    groups = ProcessGroupCollection.use_mpu_process_groups()
    return ParallelContext(
        platform=choose_platform(int(os.environ.get("LOCAL_RANK", "0"))),
        config=config,
        groups=groups,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        tensor_rank=groups.tp.rank(),
        tensor_size=groups.tp.size(),
        pipeline_rank=groups.pp.rank(),
        pipeline_size=groups.pp.size(),
        data_rank=groups.dp.rank(),
        data_size=groups.dp.size(),
    )
