"""RESIDENT ⇄ OFFLOADED: all storages of a set of tensors at once.

A storage's bytes are kept elsewhere and its memory is freed, while every tensor and view over it stays. So nothing has
to be bound anew, whoever holds views: megatron-core's buffers, its optimizer, the weight transfer. A swap takes no
memory of the kind that it frees.
"""

from collections.abc import Callable, Iterable, Sequence

import torch

from megatron_k15.offload.pages import release_freed_memory
from megatron_k15.offload.stores import Store

NewStore = Callable[[Sequence[int]], Store]


class Swap:
    def __init__(self, tensors: Callable[[], Iterable[torch.Tensor]], new_store: NewStore) -> None:
        """
        Args:
            tensors: all tensors to move, asked for at each offload: an optimizer makes its state at its first step.
            new_store: makes the store for storages of these sizes, in bytes.
        """
        self._tensors = tensors
        self._new_store = new_store
        self._store: Store | None = None
        self._sizes: list[int] = []
        self._away: list[torch.UntypedStorage] = []

    @property
    def is_resident(self) -> bool:
        return not self._away

    def offload(self) -> int:
        """Give the memory away; returns its bytes. Until `onload` nobody may look at the tensors.

        Raises:
            OffloadError: there is no room for the bytes; the tensors are as they were.
        """
        assert self.is_resident, "offloaded twice"
        storages = _storages(self._tensors())
        sizes = [storage.nbytes() for storage in storages]
        if self._store is None or sizes != self._sizes:
            self.close()
            self._store, self._sizes = self._new_store(sizes), sizes
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        for index, storage in enumerate(storages):
            self._store.take(index, storage)
        self._away = storages
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        release_freed_memory()
        return sum(sizes)

    def onload(self) -> int:
        """Take the memory back, with the same bytes in it; returns how many. Nothing happens while resident."""
        if self.is_resident:
            return 0
        assert self._store is not None
        for index, storage in enumerate(self._away):
            self._store.give_back(index, storage)
        self._away = []
        return sum(self._sizes)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


def _storages(tensors: Iterable[torch.Tensor]) -> list[torch.UntypedStorage]:
    """Each once, in the order of first appearance; without empty ones."""
    found: dict[int, torch.UntypedStorage] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.nbytes():
            found.setdefault(storage.data_ptr(), storage)
    return list(found.values())
