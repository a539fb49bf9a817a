"""Reads the tensors of a `torch_dist` checkpoint, ours or megatron-core's, as views into its mapped files.

`.metadata` is a pickle. It is read by an unpickler that knows the format's own data classes and nothing else, so that a
hostile checkpoint can name no function to be called; the records are read with `weights_only`.
"""

import pickle
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.utils import _create_file_view
from torch.serialization import skip_data

from megatron_k15.errors import CheckpointError
from megatron_k15.models.mapped_file import MappedFile

_DATA_CLASSES = {
    "torch": {"Size", "float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.planner": {"SavePlan", "WriteItem", "WriteItemType", "TensorWriteData"},
    "pathlib": {"PosixPath"},
}
"""What a `.metadata` is made of; megatron-core keeps all ranks' save plans in it as well."""


@dataclass(frozen=True)
class Chunk:
    """A box of a stored tensor and the record that holds it."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    file_name: str
    start: int
    length: int


@dataclass(frozen=True)
class StoredTensor:
    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @cached_property
    def chunks_by_first(self) -> dict[int, list[Chunk]]:
        """Index along the first dimension (the layer, where layers are stacked) → the chunks that reach it."""
        found: dict[int, list[Chunk]] = {}
        for chunk in self.chunks:
            for index in range(chunk.offset[0], chunk.offset[0] + chunk.shape[0]):
                found.setdefault(index, []).append(chunk)
        return found


@dataclass(frozen=True)
class TorchDistReader:
    directory: Path
    tensors: dict[str, StoredTensor]
    _maps: dict[str, MappedFile] = field(default_factory=dict, repr=False)
    _starts: dict[Chunk, int] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Read the metadata and check that every chunk's record lies within its file.

        Raises:
            CheckpointError: not a `torch_dist` directory, a missing or truncated file, a tensor with a hole.
        """
        metadata = _read_metadata(directory)
        try:
            tensors = {
                key: _stored_tensor(key, described, metadata.storage_data)
                for key, described in metadata.state_dict_metadata.items()
                if isinstance(described, TensorStorageMetadata)
            }
        except (AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(f"{directory / '.metadata'} is damaged: {error!r}") from error
        reader = cls(directory, tensors)
        for tensor in tensors.values():
            reader._check(tensor)
        return reader

    def rows(self, key: str, layer: int | None, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of the tensor `key`, of one layer where layers are stacked.

        A view into the file where one chunk holds them all, else a copy put together from several.

        Raises:
            CheckpointError: a record is not the tensor that the metadata describes.
        """
        tensor = self.tensors[key]
        leading = () if layer is None else (layer,)
        shape = (stop - start, *tensor.shape[len(leading) + 1 :])
        wanted = (*leading, start, *[0] * (len(shape) - 1))
        box = (*[1] * len(leading), *shape)
        chunks = tensor.chunks if layer is None else tensor.chunks_by_first[layer]
        hits = [(chunk, overlap) for chunk in chunks if (overlap := _overlap(chunk, wanted, box))]
        if len(hits) == 1:
            chunk, (source, _) = hits[0]
            return self._part(tensor, chunk, source).reshape(shape)
        assembled = torch.empty(box, dtype=tensor.dtype)
        for chunk, (source, target) in hits:
            assembled[target].copy_(self._part(tensor, chunk, source))
        return assembled.view(shape)

    def release(self) -> None:
        """Give back the memory that reading took. Views stay valid: their pages are read again."""
        for mapped in self._maps.values():
            mapped.release()

    def _check(self, tensor: StoredTensor) -> None:
        for chunk in tensor.chunks:
            path = self.directory / chunk.file_name
            if Path(chunk.file_name).name != chunk.file_name:
                raise CheckpointError(f"{self.directory}: {tensor.key} names a file elsewhere, {chunk.file_name}")
            if not path.is_file():
                raise CheckpointError(f"{self.directory} is incomplete: {chunk.file_name} is missing")
            inside = len(chunk.offset) == len(chunk.shape) == len(tensor.shape) and all(
                first >= 0 and first + size <= whole
                for first, size, whole in zip(chunk.offset, chunk.shape, tensor.shape, strict=True)
            )
            if not inside or chunk.start < 0 or chunk.start + chunk.length > path.stat().st_size:
                raise CheckpointError(
                    f"{self.directory} is damaged: the part of {tensor.key} at {list(chunk.offset)} does not "
                    f"lie within {chunk.file_name}"
                )
        if sum(prod(chunk.shape) for chunk in tensor.chunks) != prod(tensor.shape):
            raise CheckpointError(f"{self.directory} is damaged: the parts of {tensor.key} do not make it whole")

    def _part(self, tensor: StoredTensor, chunk: Chunk, box: tuple[slice, ...]) -> Tensor:
        """A view of some of the chunk's elements, their pages mapped."""
        if chunk not in self._starts:
            self._starts[chunk] = self._find_data(tensor, chunk)
        start, mapped = self._starts[chunk], self._mapped(chunk.file_name)
        part = mapped.tensor(start, tensor.dtype, chunk.shape)[box]
        extent = 1 + sum((size - 1) * stride for size, stride in zip(part.shape, part.stride(), strict=True))
        mapped.populate(start + part.storage_offset() * part.itemsize, extent * part.itemsize)
        return part

    def _find_data(self, tensor: StoredTensor, chunk: Chunk) -> int:
        """The first byte of the chunk's elements in its file. They stand there without gaps, in order."""
        where = f"{self.directory / chunk.file_name}: the record of {tensor.key} at {list(chunk.offset)}"
        with (self.directory / chunk.file_name).open("rb") as file:
            record = _create_file_view(file, chunk.start, chunk.length)
            try:
                # Shape, strides and dtype only; the bytes are mapped below instead of copied.
                with skip_data():
                    described = torch.load(record, weights_only=True)
                record.seek(0)
                start = chunk.start + torch._C.PyTorchFileReader(record).get_record_offset("data/0")
            except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
                raise CheckpointError(f"{where} is damaged: {error}") from error
        plain = (
            isinstance(described, Tensor)
            and (tuple(described.shape), described.dtype) == (chunk.shape, tensor.dtype)
            and described.is_contiguous()
            and described.storage_offset() == 0
        )
        if not plain or start + prod(chunk.shape) * tensor.dtype.itemsize > chunk.start + chunk.length:
            raise CheckpointError(f"{where} is not the contiguous {tensor.dtype} {list(chunk.shape)} it must be")
        return start

    def _mapped(self, file_name: str) -> MappedFile:
        if file_name not in self._maps:
            self._maps[file_name] = MappedFile.open(self.directory / file_name)
        return self._maps[file_name]


def _overlap(
    chunk: Chunk, wanted: tuple[int, ...], box: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """Where the chunk and the box at `wanted` meet: slices of the chunk and of the box."""
    source, target = [], []
    for first, size, start, length in zip(chunk.offset, chunk.shape, wanted, box, strict=True):
        low, high = max(first, start), min(first + size, start + length)
        if low >= high:
            return None
        source.append(slice(low - first, high - first))
        target.append(slice(low - start, high - start))
    return tuple(source), tuple(target)


def _stored_tensor(key: str, described: TensorStorageMetadata, storage: Any) -> StoredTensor:
    chunks = []
    for part in described.chunks:
        info = storage[MetadataIndex(key, part.offsets)]
        if getattr(info, "transform_descriptors", None):
            raise CheckpointError(f"{key} is stored with {info.transform_descriptors}, which we do not read")
        chunks.append(Chunk(tuple(part.offsets), tuple(part.sizes), info.relative_path, info.offset, info.length))
    return StoredTensor(key, described.properties.dtype, tuple(described.size), tuple(chunks))


def _read_metadata(directory: Path) -> Metadata:
    path = directory / ".metadata"
    try:
        with path.open("rb") as file:
            metadata = _DataUnpickler(file).load()
    except FileNotFoundError as error:
        raise CheckpointError(f"a torch_dist checkpoint has a .metadata; {directory} has none") from error
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, IndexError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or hostile: {error}") from error
    if not isinstance(metadata, Metadata):
        raise CheckpointError(f"{path} does not hold checkpoint metadata")
    return metadata


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _DATA_CLASSES.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not part of the format")
        return super().find_class(module, name)
