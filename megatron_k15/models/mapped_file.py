"""Tensors as views into a memory-mapped file, with a hand on how much of it is in memory."""

import contextlib
import mmap
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

_MADV_POPULATE_READ = 22
"""Linux 5.14; the mmap module of Python 3.11 has no name for it."""


@dataclass(frozen=True)
class MappedFile:
    """A whole file. The mapping is private: nothing written to a view reaches the file."""

    _memory: mmap.mmap

    @classmethod
    def open(cls, path: Path) -> Self:
        with path.open("rb") as file:
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))

    def tensor(self, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """A view from byte `start` on; its storage is just these elements."""
        return torch.frombuffer(self._memory, dtype=dtype, count=prod(shape), offset=start).view(shape)

    def populate(self, start: int, num_bytes: int) -> None:
        """Map the pages at once. Mapped one by one, as they are met, they halve the speed of a write from them."""
        # Older kernels refuse, and lose nothing but time.
        with contextlib.suppress(OSError):
            self._advise(_MADV_POPULATE_READ, start, num_bytes)

    def release(self, start: int = 0, num_bytes: int | None = None) -> None:
        """Give back the memory that reading took. Views stay valid: their pages are read again."""
        self._advise(mmap.MADV_DONTNEED, start, len(self._memory) - start if num_bytes is None else num_bytes)

    def _advise(self, advice: int, start: int, num_bytes: int) -> None:
        first = start - start % mmap.PAGESIZE
        self._memory.madvise(advice, first, start + num_bytes - first)
