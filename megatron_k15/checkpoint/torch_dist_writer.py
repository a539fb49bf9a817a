"""Writes the `torch_dist` format (megatron-core 0.16.1, torch.distributed.checkpoint 1.0.0) chunk by chunk.

The libraries' own savers need a process group and every tensor in memory at once. The format is theirs: `.distcp` files
of `torch.save` records one after another, a pickled `.metadata` with each record's place, `metadata.json` with the
format's name, `common.pt` with what is not sharded (nothing here).
"""

import io
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch
import xxhash
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.serialization import get_crc32_options, set_crc32_options

FORMAT = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}

_ALIGNMENT = 64


class TorchDistWriter:
    """Use as a context manager: it writes the metadata where the block ends well, and closes the files in any case."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, _CheckedFile] = {}
        self._described: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
        self._stored: dict[MetadataIndex, _StorageInfo] = {}

    def __enter__(self) -> "TorchDistWriter":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        try:
            for file in self._files.values():
                file.stream.close()
        finally:
            if failure is None:
                self._finish()

    @property
    def checksums(self) -> dict[str, str]:
        """Of the `.distcp` files, by name."""
        return {name: file.digest.hexdigest() for name, file in self._files.items()}

    def add_tensor(
        self, file_name: str, key: str, shape: tuple[int, ...], offset: tuple[int, ...], chunk: Tensor
    ) -> None:
        """Append `chunk`, which stands at `offset` in the tensor `key` of `shape`.

        `chunk` is contiguous and has as many dimensions as `shape`; its storage holds nothing else.
        """
        described = self._described.setdefault(
            key, TensorStorageMetadata(TensorProperties(dtype=chunk.dtype), torch.Size(shape), [])
        )
        assert isinstance(described, TensorStorageMetadata)
        described.chunks.append(ChunkStorageMetadata(torch.Size(offset), chunk.shape))
        index = MetadataIndex(key, offset, index=len(described.chunks) - 1)
        with _without_crc32():
            self._append(file_name, index, chunk)

    def add_empty_state(self, file_name: str, key: str) -> None:
        """A `ShardedObject` that holds None, as megatron-core writes it: in a list of one."""
        self._described[key] = BytesStorageMetadata()
        self._append(file_name, MetadataIndex(key), [None])

    def _append(self, file_name: str, index: MetadataIndex, content: object) -> None:
        if file_name not in self._files:
            self._files[file_name] = _CheckedFile((self._directory / file_name).open("wb"))
        file = self._files[file_name]
        # torch aligns the data within a record; aligned records make it aligned in the file, where it is mapped.
        file.write(memoryview(bytes(-file.num_bytes % _ALIGNMENT)))
        start = file.num_bytes
        try:
            torch.save(content, file)
        except RuntimeError:
            # torch.save ends a record that could not be written with an error of its own, which hides the disk's.
            if file.failure is not None:
                raise file.failure from None
            raise
        self._stored[index] = _StorageInfo(file_name, start, file.num_bytes - start)

    def _finish(self) -> None:
        metadata = Metadata(state_dict_metadata=dict(self._described), storage_data=self._stored, version="1.0.0")
        (self._directory / ".metadata").write_bytes(pickle.dumps(metadata))
        (self._directory / "metadata.json").write_text(json.dumps(FORMAT))
        torch.save({}, self._directory / "common.pt")


class _CheckedFile(io.RawIOBase):
    """Counts and checksums what goes into `stream`."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.digest = xxhash.xxh3_128()
        self.num_bytes = 0
        self.failure: OSError | None = None

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        self.digest.update(data)
        self.num_bytes += len(data)
        try:
            return self.stream.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        """`torch.save` flushes after every record; the stream's own buffer suffices."""


@contextmanager
def _without_crc32() -> Iterator[None]:
    """torch does not check the zip records' CRC-32 when it loads, and computing it halves the speed."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)
