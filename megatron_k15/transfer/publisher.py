"""Trainer shards → the shared segment, in Hugging Face shape (§2.6.3).

    EMPTY → begin(version) → every rank copies its slices → barrier → every rank hashes its share → COMPLETE

The segment lives as long as the publisher: pages that have been touched take a copy six times faster than new ones.
Replicas share the work: of the tensors that several ranks hold alike, each rank copies some.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist

from megatron_k15.engines.weight_segment import (
    TORCH_DTYPES,
    SegmentLayout,
    WeightSegment,
    remove_stale_segments,
    update_info,
)
from megatron_k15.errors import ConfigError, TransferError
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import weight_rules
from megatron_k15.models.policy import PolicyModel
from megatron_k15.models.slices import WeightSlice, weight_slices
from megatron_k15.parallel.context import ParallelContext

BITS = {2: torch.int16, 4: torch.int32}
"""Element size → a dtype that NumPy knows; it has no bf16."""


class Publisher:
    """Collective over all ranks: construction, `publish` and `close`."""

    def __init__(
        self, chunks: Sequence[PolicyModel], architecture: Architecture, context: ParallelContext, *, dtype: str
    ) -> None:
        """
        Args:
            chunks: this rank's; their parameters may move later (an optimizer maps them into its buffers).
            dtype: that vLLM runs in, `fp32` or `bf16`; weights are cast to it on the way.

        Raises:
            ConfigError: the ranks are on several hosts, which share no memory.
            TransferError: /dev/shm is too small.
        """
        if int(os.environ.get("LOCAL_WORLD_SIZE", context.world_size)) != context.world_size:
            raise ConfigError("transfer.backend=shared_memory needs all trainer ranks on one host")
        self._chunks = chunks
        self._architecture = architecture
        self._context = context
        rules = weight_rules(architecture)
        self._numbers = {rule.hf_name: number for number, rule in enumerate(rules)}
        layout = SegmentLayout.plan(((rule.hf_name, rule.hf_shape) for rule in rules), dtype)
        self.segment = _shared(layout, context)
        self._places: tuple[int, ...] = ()
        self._arrays: list[tuple[np.ndarray, np.ndarray]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._places, self._arrays = (), []
        self.segment.close()
        if self._context.rank == 0:
            self.segment.unlink()

    @torch.no_grad()
    def publish(self, version: int) -> dict[str, Any]:
        """Write `version` whole. Returns what vLLM's receiver is told, on rank 0; elsewhere {}."""
        if self._context.rank == 0:
            self.segment.begin(version)
        dist.barrier()
        self.copy_slices()
        dist.barrier()
        checksums = self._checksums()
        if self._context.rank != 0:
            return {}
        self.segment.complete(version, checksums)
        return update_info(self.segment, version, checksums)

    @torch.no_grad()
    def copy_slices(self) -> None:
        """The copies of `publish`, alone: this rank's share into the segment."""
        # megatron-core's redirection on CPUs looks at every torch call of this thread: thousands, and none of its own.
        with torch._C.DisableTorchFunction():
            slices = self._own_slices()
            if not all(_same_bytes(part.local, self.segment.layout.dtype) for part in slices):
                for part in slices:
                    self._target(part).copy_(part.local)
                return
            arrays = self._arrays_of(slices)
        # One tensor per thread: torch would wake and join all its threads for every tensor, two to twenty times slower.
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(lambda pair: np.copyto(*pair), arrays))

    def _own_slices(self) -> list[WeightSlice]:
        """This rank's share. Ranks that hold the same slice (replicas, and for unsplit tensors the whole tensor
        group) take turns by the tensor's number."""
        context = self._context
        own = []
        for part in weight_slices(self._chunks, self._architecture, context):
            number = self._numbers[part.rule.hf_name]
            mine = number % context.data_size == context.data_rank
            if part.rule.shard_dim is None:
                mine = mine and number // context.data_size % context.tensor_size == context.tensor_rank
            if mine:
                own.append(part)
        return own

    def _arrays_of(self, slices: Sequence[WeightSlice]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(target, source) of each copy, kept while no parameter moves: to make them takes a third of the copies' time.

        Largest first, so that no thread is left alone with a large one at the end.
        """
        places = tuple(part.local.data_ptr() for part in slices)
        if places != self._places:
            pairs = ((self._target(part), part.local) for part in sorted(slices, key=lambda part: -part.local.numel()))
            self._arrays = [
                (target.view(BITS[local.element_size()]).numpy(), local.view(BITS[local.element_size()]).numpy())
                for target, local in pairs
            ]
            self._places = places
        return self._arrays

    def _target(self, part: WeightSlice) -> torch.Tensor:
        """Where the slice goes in the segment, in the shape of the slice."""
        rule, local = part
        start, length = rule.hf_region(self._context.tensor_rank, self._context.tensor_size)
        return self.segment.tensor(rule.hf_name).narrow(rule.shard_dim or 0, start, length).view(local.shape)

    def _checksums(self) -> dict[str, str]:
        """Of every tensor, on rank 0; each rank hashes some, with as many threads as torch has here."""
        context = self._context
        names = [slot.name for slot in self.segment.layout.slots][context.rank :: context.world_size]
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            found = dict(zip(names, threads.map(self.segment.checksum, names), strict=True))
        gathered: list[dict[str, str]] | None = [{}] * context.world_size if context.rank == 0 else None
        dist.gather_object(found, gathered, dst=0)
        return {name: checksum for part in gathered or [] for name, checksum in part.items()}


def _same_bytes(local: torch.Tensor, dtype: str) -> bool:
    """True where nothing is cast and nothing comes from a GPU: NumPy copies that, in one thread, without the GIL."""
    return local.device.type == "cpu" and local.dtype == TORCH_DTYPES[dtype]


def _shared(layout: SegmentLayout, context: ParallelContext) -> WeightSegment:
    """Rank 0 creates the segment, the others open it; where it cannot be created, every rank says so."""
    told: list[Any] = [None, None]
    segment = None
    if context.rank == 0:
        remove_stale_segments()
        try:
            segment = WeightSegment.create(layout)
            told[0] = str(segment.path)
        except TransferError as error:
            told[1] = str(error)
    dist.broadcast_object_list(told, src=0)
    path, problem = told
    if problem:
        raise TransferError(problem)
    segment = segment or WeightSegment.open(path, layout)
    # Whoever goes on may fail and remove the file: not before all have it open.
    dist.barrier()
    return segment
