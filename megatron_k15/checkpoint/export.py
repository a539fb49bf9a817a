"""The live trainer → a Hugging Face directory. Every rank writes what it holds straight to its place in the files."""

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_k15.checkpoint.agreement import all_or_none, from_rank_zero
from megatron_k15.checkpoint.companions import copy_companions
from megatron_k15.checkpoint.hf_layout import (
    WeightFile,
    change_config,
    plan_files,
    set_config_dtype,
    write_index,
)
from megatron_k15.checkpoint.new_directory import make_staging, put_in_place
from megatron_k15.errors import CheckpointError
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import WeightRule, weight_rules
from megatron_k15.parallel.context import ParallelContext

Region = tuple[str, int]
"""Hugging Face name, first index along the split dimension."""


def export_hf(
    directory: Path,
    slices: Iterable[tuple[WeightRule, Tensor]],
    *,
    architecture: Architecture,
    source_dir: Path,
    context: ParallelContext,
    config_changes: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Collective over all ranks. Write `directory`, or replace the one that is there, once the new one is whole.

    `slices` are this rank's local parts, as `models.slices.weight_slices` gives them. Where several ranks hold the same
    part (data parallelism, norms, tied embeddings), the lowest of them writes it. Config, tokenizer and the like come
    from `source_dir`; config.json gets the weights' dtype and `config_changes` (JSON values).

    Raises:
        CheckpointError: on every rank, when it failed on any (a full disk, a tensor that no rank holds). What stood at
            `directory` before stays.
    """
    held = {(rule.hf_name, _start(rule, context)): (rule, local) for rule, local in slices}
    what = f"{directory} could not be written"
    with all_or_none(what):
        _check_target(directory, source_dir)
    owned, dtype = _agree_on_owners(held, architecture, context, what)
    files = plan_files(((rule.hf_name, rule.hf_shape) for rule in weight_rules(architecture)), dtype)
    staging: Path | None = None
    try:
        with all_or_none(what):
            if context.rank == 0:
                staging = make_staging(directory)
                copy_companions(source_dir, staging)
                set_config_dtype(staging, dtype)
                change_config(staging, config_changes)
                _reserve(staging, files)
                write_index(staging, files)
        folder = from_rank_zero(staging)
        with all_or_none(what):
            _write_slices(folder, files, [held[region] for region in owned], context)
        with all_or_none(what):
            if context.rank == 0:
                put_in_place(folder, directory)
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _start(rule: WeightRule, context: ParallelContext) -> int:
    return rule.hf_region(context.tensor_rank, context.tensor_size)[0]


def _check_target(directory: Path, source_dir: Path) -> None:
    """Only an earlier export may be replaced, never the model that the run started from."""
    if not directory.exists():
        return
    if directory.resolve() == source_dir.resolve():
        raise CheckpointError("it is the model that the run started from; choose another checkpoint.export_dir")
    if not (directory / "config.json").is_file() and any(directory.iterdir()):
        raise CheckpointError("it exists and is no Hugging Face directory; choose another checkpoint.export_dir")


def _agree_on_owners(
    held: dict[Region, tuple[WeightRule, Tensor]], architecture: Architecture, context: ParallelContext, what: str
) -> tuple[list[Region], torch.dtype]:
    """The regions that this rank writes, and the dtype of all weights."""
    offers: list[dict[Region, tuple[int, str]]] = [{} for _ in range(context.world_size)]
    mine = {region: (local.numel(), str(local.dtype)) for region, (_, local) in held.items()}
    dist.all_gather_object(offers, mine)
    owners: dict[Region, int] = {}
    for rank in reversed(range(context.world_size)):
        owners.update(dict.fromkeys(offers[rank], rank))
    sizes: dict[str, int] = {}
    for region, rank in owners.items():
        sizes[region[0]] = sizes.get(region[0], 0) + offers[rank][region][0]
    # Every rank sees the same offers, so all raise or none does.
    for rule in weight_rules(architecture):
        if sizes.get(rule.hf_name, 0) != prod(rule.hf_shape):
            raise CheckpointError(
                f"{what}: the ranks hold {sizes.get(rule.hf_name, 0)} of the {prod(rule.hf_shape)} elements of "
                f"{rule.hf_name}"
            )
    dtypes = {dtype for offer in offers for _, dtype in offer.values()}
    if len(dtypes) != 1:
        raise CheckpointError(f"{what}: all weights must have one dtype, got {', '.join(sorted(dtypes))}")
    dtype = getattr(torch, dtypes.pop().removeprefix("torch."))
    return [region for region, rank in owners.items() if rank == context.rank], dtype


def _reserve(directory: Path, files: list[WeightFile]) -> None:
    """Headers, and the disk space of everything: a full disk is noticed here, before the ranks write."""
    for file in files:
        with (directory / file.name).open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.num_bytes)
            stream.write(file.header)


def _write_slices(
    directory: Path, files: list[WeightFile], slices: list[tuple[WeightRule, Tensor]], context: ParallelContext
) -> None:
    places = {name: (file.name, start) for file in files for name, start in file.starts.items()}
    with ExitStack() as stack:
        opened: dict[str, int] = {}
        for rule, local in slices:
            file_name, start = places[rule.hf_name]
            if file_name not in opened:
                opened[file_name] = os.open(directory / file_name, os.O_WRONLY)
                stack.callback(os.close, opened[file_name])
            _write_slice(opened[file_name], start, rule, local, context)
        for descriptor in opened.values():
            os.fsync(descriptor)


def _write_slice(descriptor: int, start: int, rule: WeightRule, local: Tensor, context: ParallelContext) -> None:
    """Written, not mapped: on a network file system two hosts may meet within a page."""
    first, length = rule.hf_region(context.tensor_rank, context.tensor_size)
    dim = rule.shard_dim or 0
    shape = tuple(length if index == dim else size for index, size in enumerate(rule.hf_shape))
    values = local.detach().cpu().reshape(shape)
    row_bytes = prod(rule.hf_shape[1:]) * values.itemsize
    if dim == 0 or length == rule.hf_shape[dim]:
        _write_at(descriptor, values.contiguous(), start + (first * row_bytes if dim == 0 else 0))
        return
    for row, row_values in enumerate(values.contiguous()):
        _write_at(descriptor, row_values, start + row * row_bytes + first * values.itemsize)


def _write_at(descriptor: int, values: Tensor, position: int) -> None:
    remaining = memoryview(values.reshape(-1).view(torch.uint8).numpy())
    while remaining:
        count = os.pwrite(descriptor, remaining, position)
        remaining, position = remaining[count:], position + count
