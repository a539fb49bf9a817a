"""All ranks succeed at a step, or all of them raise the same error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint.api import CheckpointException

from megatron_k15.errors import CheckpointError, K15Error

_T = TypeVar("_T")

FAILURES = (OSError, K15Error, RuntimeError, ValueError, KeyError, CheckpointingException, CheckpointException)
"""What a step that touches files can end with here; torch's own CheckpointException is no `Exception`."""


@contextmanager
def all_or_none(what: str) -> Iterator[None]:
    """Collective. The block must not leave other ranks waiting for a rank that fails in it.

    Raises:
        CheckpointError: on every rank, when the block failed on any; names each rank and its reason.
    """
    reason, cause = None, None
    try:
        yield
    except FAILURES as error:
        reason, cause = _reason(error), error
    reasons: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(reasons, reason)
    failed = {text: rank for rank, text in reversed(list(enumerate(reasons))) if text is not None}
    if failed:
        texts = "; ".join(f"rank {rank}: {text}" for text, rank in sorted(failed.items(), key=lambda item: item[1]))
        raise CheckpointError(f"{what}: {texts}") from cause


def from_rank_zero(value: _T | None) -> _T:
    """Collective: every rank gets rank 0's value."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    received = box[0]
    assert received is not None
    return received


def _reason(error: BaseException) -> str:
    if isinstance(error, CheckpointException):
        # Every rank gets all ranks' failures, each with its traceback: the first one says it.
        failures = error.failures
        first = failures[min(failures)]
        return _reason(first[0]) if first else str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or repr(error)
