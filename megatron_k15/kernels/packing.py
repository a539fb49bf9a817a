"""The packing planner: sequences into packs of limited length."""

from collections.abc import Sequence

from megatron_k15.kernels import reference
from megatron_k15.kernels.native import library


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best fit over sorted lengths: longest first, each into the fullest pack that has room, else into a new one.

    Returns:
        The packs, as indices into `lengths`; a sequence longer than `capacity` has one of its own.
    """
    module = library()
    return reference.best_fit(lengths, capacity) if module is None else module.best_fit(list(lengths), capacity)
