"""The trainer's end of vLLM's own weight-transfer backends `ipc` and `nccl` (vLLM 0.32).

vLLM's trainer engines do the sending: they pack whole Hugging Face tensors from a source into buffers of bounded size
and drive the receiving side meanwhile. Called on every trainer rank; rank 0 sends and speaks for all.

Has not run on a GPU yet: a CPU can check names and signatures, the source and the control calls (docs/gpu.md).
"""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from math import prod
from typing import Any

import torch
import transformers  # noqa: F401 - before vllm: imported first, vLLM 0.32 asks for a half imported transformers 5.19
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerWeightTransferEngine, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from megatron_k15.engines.update_control import UpdateControl
from megatron_k15.errors import TransferError

BUFFER_BYTES = 512 * 2**20
"""Of one packed part. Each sending and receiving GPU holds one (ipc) or two (nccl) of them, larger where a single
tensor is larger."""
POLL_SECONDS = 0.001


class TensorSource(WeightSource):
    """What is sent, and in which order: alike on every trainer rank."""

    def __init__(
        self,
        shapes: Sequence[tuple[str, tuple[int, ...]]],
        dtype: torch.dtype,
        tensors: Callable[[], Iterator[tuple[str, Tensor]]],
    ) -> None:
        """
        Args:
            shapes: every tensor's name and whole shape, in the order in which `tensors()` yields them.
            tensors: a fresh pass, collective over the trainer ranks.
        """
        self._metadata = [ParamMeta(name, dtype, tuple(shape)) for name, shape in shapes]
        self._tensors = tensors

    def metadata(self) -> list[ParamMeta]:
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self._tensors()

    @property
    def buffer_bytes(self) -> int:
        """A part must hold the largest tensor."""
        return max(BUFFER_BYTES, *(prod(meta.shape) * meta.dtype.itemsize for meta in self._metadata))


def ipc_init_info(source: TensorSource, rank: int) -> IPCTrainerInitInfo:
    return IPCTrainerInitInfo(rank=rank, packed=True, packed_buffer_size_bytes=source.buffer_bytes)


def nccl_init_info(source: TensorSource, rank: int, *, port: int, num_workers: int) -> NCCLTrainerInitInfo:
    """Rank 0 and all vLLM workers meet at 127.0.0.1: the pool starts vLLM on rank 0's host."""
    return NCCLTrainerInitInfo(
        master_address="127.0.0.1",
        master_port=port,
        world_size=1 + num_workers,
        rank=rank,
        packed=True,
        packed_buffer_size_bytes=source.buffer_bytes,
    )


def open_ipc(source: TensorSource, rank: int, control: UpdateControl | None) -> TrainerWeightTransferEngine[Any]:
    """`control` is needed on rank 0 alone."""
    return WeightTransferTrainerFactory.trainer_init(ipc_init_info(source, rank), client=control, source=source)


def open_nccl(
    source: TensorSource, rank: int, control: UpdateControl | None, *, limit_seconds: float
) -> TrainerWeightTransferEngine[Any]:
    """As `open_ipc`. Rank 0 and every vLLM worker must have a GPU of its own: NCCL refuses to share one."""
    num_workers = control.num_workers if control is not None else 0
    port = _free_port() if control is not None else 0
    init_info = nccl_init_info(source, rank, port=port, num_workers=num_workers)
    engine = WeightTransferTrainerFactory.trainer_init(init_info, client=control, source=source)
    if control is not None:
        engine.model_update_group = LimitedGroup(engine.model_update_group, control, limit_seconds)
    return engine


class LimitedGroup:
    """vLLM's NCCL communicator, each of whose broadcasts ends within a limit, or at once when vLLM reports an error.

    Without it a vLLM that dies in the middle would leave the trainer waiting for ever.
    """

    def __init__(self, group: Any, control: UpdateControl, limit_seconds: float) -> None:
        self._group = group
        self._control = control
        self._limit_seconds = limit_seconds

    def broadcast(self, tensor: Tensor, src: int, stream: Any = None) -> None:
        self._group.broadcast(tensor, src=src, stream=stream)
        done = torch.cuda.Event()
        done.record(stream or torch.cuda.current_stream())
        wait_for_other_side(done.query, self._control, self._limit_seconds)

    def destroy(self) -> None:
        self._group.destroy()


def wait_for_other_side(done: Callable[[], bool], control: UpdateControl, limit_seconds: float) -> None:
    """
    Raises:
        TransferError: vLLM reported an error meanwhile, or the time was up.
    """
    deadline = time.monotonic() + limit_seconds
    while not done():
        if control.error is not None:
            raise TransferError(f"weight version {control.version} did not reach vLLM: {control.error}")
        if time.monotonic() > deadline:
            raise TransferError(
                f"vLLM must take each part of weight version {control.version} within {limit_seconds:g} s "
                "(transfer.timeout_seconds); see the vLLM logs for what holds it up"
            )
        time.sleep(POLL_SECONDS)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
