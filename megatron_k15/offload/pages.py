"""Resident memory of CPU tensors, without touching the tensors: give a storage's pages back, reach its bytes; and of
what malloc keeps.

`resize_(0)` would not do on a CPU: torch refuses it once anybody has asked for a NumPy view, and freed memory of
middling size stays with malloc. Pages that are given back keep their addresses and read as zeros until written again.
"""

import ctypes
import mmap
import os

import torch

MADV_DONTNEED = 4
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def memory_of(storage: torch.UntypedStorage) -> memoryview:
    """The storage's bytes, writable."""
    return memoryview((ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())).cast("B")


def release_pages(storage: torch.UntypedStorage) -> int:
    """Give back all whole pages of a storage, whose content is lost; returns their bytes."""
    start = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (storage.data_ptr() + storage.nbytes()) // mmap.PAGESIZE * mmap.PAGESIZE
    if end <= start:
        return 0
    if _libc.madvise(start, end - start, MADV_DONTNEED) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"madvise: {os.strerror(error)}")
    return end - start


def release_freed_memory() -> None:
    """Give back what was freed but is kept by malloc: between freed activations it holds a little more after each
    iteration."""
    _libc.malloc_trim(0)
