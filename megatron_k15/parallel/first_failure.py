"""One rank's failure tears the others out of their collectives: all of them then tell the first one's reason.

    rank 3 fails: its reason → store          rank 7: "connection closed by peer" → store → "rank 3 failed: …"

The store is torchrun's agent's, or rank 0's: it may be gone as well, and then a rank has only its own error to tell.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from megatron_k15.errors import K15Error, PeerError

KEY = "megatron_k15/first_failure"
PATIENCE_SECONDS = 5.0
"""How long a rank that lost its peers waits for one of them to have said why."""


@contextmanager
def first_failure() -> Iterator[None]:
    """
    Raises:
        PeerError: this rank failed because another one had failed before.
    """
    # Taken now: a process group that is being torn down has none to give.
    store, rank = dist.distributed_c10d._get_default_store(), dist.get_rank()
    try:
        yield
    except K15Error as error:
        _leave(store, f"rank {rank}: {error}")
        raise
    except Exception as error:
        # Only lost connections come from elsewhere; torch and gloo raise them as RuntimeError.
        if isinstance(error, RuntimeError) and (reason := _wait_for_reason(store)):
            raise PeerError(reason) from error
        _leave(store, f"rank {rank}: {error!r}")
        raise


def _leave(store: dist.Store, reason: str) -> None:
    try:
        # Set only where nobody was faster.
        store.compare_set(KEY, "", reason)
    except dist.DistError:
        return


def _wait_for_reason(store: dist.Store) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if store.check([KEY]):
                return store.get(KEY).decode()
        except dist.DistError:
            return ""
        if time.monotonic() > deadline:
            return ""
        time.sleep(0.1)
