"""Hugging Face directory ⇄ Megatron directory (`torch_dist`), piece by piece, bit for bit.

Only tensors are converted; config, tokenizer and the like travel in the Megatron directory's `hf/` folder. Neither side
is read into memory: pieces of at most `PIECE_BYTES` are views into the mapped input wherever the two layouts agree, and
copies where they do not (query, key and value are interleaved; a tensor-parallel cut across columns).

A `torch_dist` checkpoint loads at any TP×PP. The sizes given to `hf_to_megatron` only say how it is cut into chunks and
files, one file per tensor and pipeline rank, so that loading at that split reads whole chunks.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import RawIOBase
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from megatron_k15.checkpoint import manifest
from megatron_k15.checkpoint.companions import copy_companions
from megatron_k15.checkpoint.hf_layout import WeightFile, plan_files, set_config_dtype, write_index
from megatron_k15.checkpoint.new_directory import new_directory, refuse_existing
from megatron_k15.checkpoint.stored_parameters import (
    StoredParameter,
    first_row,
    num_groups,
    state_keys,
    stored_parameters,
)
from megatron_k15.checkpoint.torch_dist_reader import TorchDistReader
from megatron_k15.checkpoint.torch_dist_writer import TorchDistWriter
from megatron_k15.errors import CheckpointError, ModelError
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.hf_files import DTYPES, HfWeights
from megatron_k15.models.mapping import WeightRule, check_split, weight_rules

PIECE_BYTES = 16 * 2**20
HF_FOLDER = "hf"
_OTHER_KEYS = ("optimizer.",)
"""What a training checkpoint holds beside the weights."""


def hf_to_megatron(
    source: Path, target: Path, *, tensor_size: int = 1, pipeline_size: int = 1, dtype: torch.dtype | None = None
) -> None:
    """Write the weights of `source` as a `torch_dist` checkpoint; `dtype` None keeps theirs.

    Raises:
        ModelError: `source` is incomplete, inconsistent or unsupported, or the split is impossible; nothing is written.
        CheckpointError: `target` exists or could not be written.
    """
    architecture = Architecture.from_hf(source)
    check_split(architecture, tensor_size=tensor_size, pipeline_size=pipeline_size)
    weights = HfWeights.open(source, architecture)
    parameters = stored_parameters(architecture)
    with new_directory(target) as staging:
        with TorchDistWriter(staging) as writer:
            for parameter in parameters:
                first_rank = parameter.stage(pipeline_size) * tensor_size
                for tensor_rank, offset, chunk in _chunks(parameter, weights, tensor_size, dtype):
                    if parameter.layer is not None:
                        chunk = chunk.unsqueeze(0)
                    place = parameter.stored_offset(*offset)
                    file_name = f"__{first_rank + tensor_rank}_0.distcp"
                    writer.add_tensor(file_name, parameter.key, parameter.stored_shape, place, chunk)
            for key in state_keys(parameters, architecture):
                writer.add_empty_state("__0_0.distcp", key)
        copy_companions(source, staging / HF_FOLDER)
        written = dtype or weights.dtype(parameters[0].rules[0].hf_name)
        set_config_dtype(staging / HF_FOLDER, written)
        facts = {
            "architecture": architecture.hf_name,
            "dtype": str(written).removeprefix("torch."),
            "tensor_parallel_size": tensor_size,
            "pipeline_parallel_size": pipeline_size,
        }
        manifest.write(staging, facts, checksums=writer.checksums)


def megatron_to_hf(
    source: Path, target: Path, *, dtype: torch.dtype | None = None, config_directory: Path | None = None
) -> None:
    """Write the weights of a `torch_dist` checkpoint as a Hugging Face directory; `dtype` None keeps theirs.

    `config_directory` holds config and tokenizer; None takes the checkpoint's own `hf/` folder. A checkpoint with our
    manifest is first compared with it.

    Raises:
        ModelError: the config is missing or unsupported, or does not describe these tensors; nothing is written.
        CheckpointError: `source` is damaged, or `target` exists or could not be written.
    """
    refuse_existing(target)
    if not source.is_dir():
        raise CheckpointError(f"the input must be a Megatron directory; {source} is none")
    companions = config_directory or source / HF_FOLDER
    architecture = Architecture.from_hf(companions)
    reader = TorchDistReader.open(source)
    stored = check_stored(source, architecture, reader)
    with new_directory(target) as staging, compared_with_manifest(source):
        copy_companions(companions, staging)
        set_config_dtype(staging, dtype or stored)
        files = plan_files(((rule.hf_name, rule.hf_shape) for rule in weight_rules(architecture)), dtype or stored)
        _write_files(staging, files, architecture, reader, dtype)
        write_index(staging, files)


def _write_files(
    directory: Path,
    files: list[WeightFile],
    architecture: Architecture,
    reader: TorchDistReader,
    dtype: torch.dtype | None,
) -> None:
    places = {
        rule.hf_name: (rule, parameter) for parameter in stored_parameters(architecture) for rule in parameter.rules
    }
    for file in files:
        with (directory / file.name).open("wb", buffering=0) as stream:
            stream.write(file.header)
            for name in file.starts:
                for piece in _pieces(*places[name], reader):
                    _write_all(stream, piece if dtype is None else piece.to(dtype))
                    reader.release()


@contextmanager
def compared_with_manifest(directory: Path) -> Iterator[None]:
    """Compare a checkpoint with our manifest, where it has one, beside what the block does; the block's end waits for
    the answer."""
    if not (directory / manifest.NAME).exists():
        yield
        return
    facts = manifest.read(directory)
    manifest.check_sizes(directory, facts)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(manifest.check_content, directory, facts)
        yield
        answer.result()


def _chunks(
    parameter: StoredParameter, weights: HfWeights, tensor_size: int, dtype: torch.dtype | None
) -> Iterator[tuple[int, tuple[int, ...], Tensor]]:
    """(tensor rank whose shard it belongs to, place in the unsplit parameter, contiguous chunk)."""
    for rule in parameter.rules:
        first = first_row(rule)
        if first is None:
            yield from _interleaved_chunks(parameter, weights, tensor_size, dtype)
            return
        for tensor_rank in range(tensor_size if rule.shard_dim is not None else 1):
            for (row, column), (start, stop), columns in _blocks(rule, weights, tensor_rank, tensor_size):
                piece = weights.rows(rule.hf_name, start, stop)
                if columns is not None:
                    # A clone of just these columns: `torch.save` writes whole storages.
                    piece = piece[:, columns].clone(memory_format=torch.contiguous_format)
                place = (first + row, column)[: piece.ndim]
                yield tensor_rank, place, piece if dtype is None else piece.to(dtype)
                weights.release_rows(rule.hf_name, start, stop)
        num_padding = parameter.shape[0] - rule.hf_shape[0] if rule.is_vocabulary else 0
        if num_padding:
            padding = torch.zeros(num_padding, *parameter.shape[1:], dtype=dtype or weights.dtype(rule.hf_name))
            yield tensor_size - 1, (rule.hf_shape[0], 0), padding


def _blocks(
    rule: WeightRule, weights: HfWeights, tensor_rank: int, tensor_size: int
) -> Iterator[tuple[tuple[int, int], tuple[int, int], slice | None]]:
    """The tensor rank's region in pieces of rows: (place, rows, columns, where None is all of them)."""
    start, length = rule.hf_region(tensor_rank, tensor_size)
    columns = None
    if rule.shard_dim == 1 and tensor_size > 1:
        columns = slice(start, start + length)
    if rule.shard_dim == 1:
        start, length = 0, rule.hf_shape[0]
    row_bytes = prod(rule.hf_shape[1:]) * weights.dtype(rule.hf_name).itemsize
    for first, last in _spans(start, start + length, max(1, PIECE_BYTES // row_bytes)):
        yield (first, columns.start if columns else 0), (first, last), columns


def _interleaved_chunks(
    parameter: StoredParameter, weights: HfWeights, tensor_size: int, dtype: torch.dtype | None
) -> Iterator[tuple[int, tuple[int, ...], Tensor]]:
    """Query, key and value, by groups: each chunk is the shard of one of `num_parts` tensor ranks."""
    stored = dtype or weights.dtype(parameter.rules[0].hf_name)
    num_bytes = prod(parameter.shape) * stored.itemsize
    groups = num_groups(parameter.rules[0])
    splits = [parts for parts in range(tensor_size, groups + 1, tensor_size) if groups % parts == 0]
    num_parts = next((parts for parts in splits if num_bytes <= parts * PIECE_BYTES), splits[-1])
    num_rows = parameter.shape[0] // num_parts
    for part in range(num_parts):
        chunk = torch.empty(num_rows, *parameter.shape[1:], dtype=stored)
        for rule in parameter.rules:
            start, length = rule.hf_region(part, num_parts)
            view = rule.local_view(chunk, part, num_parts)
            view.copy_(weights.rows(rule.hf_name, start, start + length).view(view.shape))
            weights.release_rows(rule.hf_name, start, start + length)
        yield part * tensor_size // num_parts, (part * num_rows,), chunk


def _pieces(rule: WeightRule, parameter: StoredParameter, reader: TorchDistReader) -> Iterator[Tensor]:
    """The HF tensor's elements in order, as contiguous pieces."""
    first = first_row(rule)
    if first is not None:
        row_bytes = prod(rule.hf_shape[1:]) * reader.tensors[parameter.key].dtype.itemsize
        for start, stop in _spans(0, rule.hf_shape[0], max(1, PIECE_BYTES // row_bytes)):
            yield reader.rows(parameter.key, parameter.layer, first + start, first + stop).contiguous()
        return
    groups = num_groups(rule)
    group_rows = parameter.shape[0] // groups
    group_bytes = group_rows * prod(parameter.shape[1:]) * reader.tensors[parameter.key].dtype.itemsize
    for start, stop in _spans(0, groups, max(1, PIECE_BYTES // group_bytes)):
        rows = reader.rows(parameter.key, parameter.layer, start * group_rows, stop * group_rows)
        yield rule.view(rows).contiguous()


def _spans(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


def _write_all(stream: RawIOBase, piece: Tensor) -> None:
    remaining = memoryview(piece.reshape(-1).view(torch.uint8).numpy())
    while remaining:
        remaining = remaining[stream.write(remaining) :]


def check_stored(source: Path, architecture: Architecture, reader: TorchDistReader) -> torch.dtype:
    """The tensors are those of the architecture, all of one supported dtype, which is returned."""
    expected = {parameter.key: parameter.stored_shape for parameter in stored_parameters(architecture)}
    where = f"{source} does not hold the {architecture.hf_name} that its config.json describes"
    if missing := [key for key in expected if key not in reader.tensors]:
        raise ModelError(f"{where}: missing {', '.join(missing)}")
    extra = [key for key in reader.tensors if key not in expected and not key.startswith(_OTHER_KEYS)]
    if extra:
        raise ModelError(f"{where}: unexpected {', '.join(extra)}")
    for key, shape in expected.items():
        if reader.tensors[key].shape != shape:
            raise ModelError(f"{where}: {key} is {list(reader.tensors[key].shape)}, must be {list(shape)}")
    dtypes = {reader.tensors[key].dtype: key for key in expected}
    if len(dtypes) > 1 or not set(dtypes) <= set(DTYPES.values()):
        found = ", ".join(f"{dtype} ({key})" for dtype, key in dtypes.items())
        raise ModelError(f"{source}: all tensors must have one dtype of {', '.join(DTYPES)}; got {found}")
    return next(iter(dtypes))
