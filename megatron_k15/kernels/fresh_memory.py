"""Large tensors that nothing was written to yet, in few page faults.

A fault per 4 KiB costs as much as the passes over the logits do. Linux gives 2 MiB pages where asked to (its `madvise`
setting, the usual one); elsewhere, and on a GPU, nothing is different.
"""

import ctypes
import mmap
from functools import cache
from typing import Any

from torch import Tensor

HUGE_PAGE_BYTES = 2 << 20
LEAST_BYTES = 32 << 20
"""From here on glibc gives every tensor a mapping of its own, so that what is asked for ends with the tensor."""


def new_memory(like: Tensor, *shape: int) -> Tensor:
    """`like.new_empty(shape)`."""
    fresh = like.new_empty(shape)
    num_bytes = fresh.numel() * fresh.element_size()
    if fresh.device.type == "cpu" and num_bytes >= LEAST_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        first = -(-fresh.data_ptr() // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        length = (fresh.data_ptr() + num_bytes - first) // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
        # A refusal loses nothing but time.
        _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    return fresh


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)
