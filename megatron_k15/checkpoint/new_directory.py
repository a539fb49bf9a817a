"""A directory that is there whole or not at all: written under a temporary sibling's name, synced, renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_k15.errors import CheckpointError


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield a folder to write into; it becomes `target` when the block ends well, and is removed otherwise.

    Raises:
        CheckpointError: `target` exists already, or something could not be written (a full disk, no permission).
    """
    refuse_existing(target)
    try:
        staging = make_staging(target)
    except OSError as error:
        raise not_written(target, error) from error
    try:
        yield staging
        put_in_place(staging, target)
    except OSError as error:
        raise not_written(target, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise CheckpointError(f"the output must not exist yet; {target} does: remove it or choose another name")


def make_staging(target: Path) -> Path:
    """A fresh folder beside `target`, on the same file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    staging.chmod(0o755)
    return staging


def put_in_place(staging: Path, target: Path) -> None:
    """Sync every file and folder of `staging`, then give it its name. What had that name goes last."""
    for path in staging.rglob("*"):
        sync(path)
    sync(staging)
    if target.exists():
        earlier = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        target.rename(earlier)
        try:
            staging.rename(target)
        except OSError:
            earlier.rename(target)
            raise
        shutil.rmtree(earlier, ignore_errors=True)
    else:
        staging.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def not_written(target: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{target} could not be written: {error.strerror or error}; nothing was left behind")
