"""Where the bytes of storages wait while their memory is given away.

- CPU: a file on the disk, so that the swap is a real one: nothing of it is resident memory. Its name is removed as soon
  as it is open, so it cannot outlive the process.
- CUDA: pinned host memory, taken once and kept. Has not run on a GPU yet (docs/gpu.md).
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import torch

from megatron_k15.errors import OffloadError
from megatron_k15.offload.pages import memory_of, release_pages


class Store(Protocol):
    """Room for storages of fixed sizes, by number."""

    def take(self, index: int, storage: torch.UntypedStorage) -> None:
        """Keep its bytes and free its memory; tensors over it stay."""
        ...

    def give_back(self, index: int, storage: torch.UntypedStorage) -> None:
        """Let it have memory again, with the same bytes in it."""
        ...

    def close(self) -> None: ...


class FileStore:
    def __init__(self, sizes: Sequence[int], directory: Path) -> None:
        """
        Raises:
            OffloadError: the disk has too little room: asked for here, not found out in the middle of a swap.
        """
        self._starts = list(accumulate(sizes, initial=0))
        total = self._starts[-1]
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._fd, name = tempfile.mkstemp(prefix="k15_offload_", dir=directory)
            Path(name).unlink()
            os.posix_fallocate(self._fd, 0, max(1, total))
        except OSError as error:
            free = shutil.disk_usage(directory).free / 1e6 if directory.is_dir() else 0.0
            raise OffloadError(
                f"offloading the trainer needs {total / 1e6:.0f} MB in {directory}, where {free:.0f} MB are free: "
                f"{error.strerror}; make room, or set colocate.offload_dir"
            ) from error

    def take(self, index: int, storage: torch.UntypedStorage) -> None:
        view, offset = memory_of(storage), self._starts[index]
        while view:
            count = os.pwrite(self._fd, view, offset)
            view, offset = view[count:], offset + count
        release_pages(storage)

    def give_back(self, index: int, storage: torch.UntypedStorage) -> None:
        view, offset = memory_of(storage), self._starts[index]
        while view:
            count = os.preadv(self._fd, [view], offset)
            assert count > 0, "the file was allocated in full"
            view, offset = view[count:], offset + count

    def close(self) -> None:
        os.close(self._fd)


class PinnedStore:
    def __init__(self, sizes: Sequence[int]) -> None:
        """
        Raises:
            OffloadError: the host has too little memory to pin.
        """
        self._sizes = tuple(sizes)
        try:
            self._kept = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for size in sizes]
        except RuntimeError as error:
            raise OffloadError(
                f"offloading the trainer needs {sum(sizes) / 1e6:.0f} MB of pinned host memory per rank: {error}"
            ) from error

    def take(self, index: int, storage: torch.UntypedStorage) -> None:
        self._kept[index].copy_(_bytes(storage))
        storage.resize_(0)

    def give_back(self, index: int, storage: torch.UntypedStorage) -> None:
        storage.resize_(self._sizes[index])
        _bytes(storage).copy_(self._kept[index])

    def close(self) -> None:
        self._kept = []


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
