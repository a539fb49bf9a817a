"""Resume checkpoints: megatron-core's `torch_dist` with the trainer's state, and the master's state as JSON beside it.

    <root>/iteration_0000010/   __<rank>_0.distcp … .metadata metadata.json common.pt   megatron-core's
                                master.json  replay_iteration_*.log                     the master's
                                k15_manifest.json                                       sizes and checksums of all

A checkpoint appears under its name when all of it is on the disk. Loading at another TP×PP×DP works as far as the
sharded state dict allows it (`metadata={"distrib_optim_sharding_type": "fully_reshardable"}`).

The tensors are megatron-core's pickled format: load only checkpoints of your own runs.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory, is_main_replica

from megatron_k15.checkpoint import manifest
from megatron_k15.checkpoint.agreement import all_or_none, from_rank_zero
from megatron_k15.checkpoint.new_directory import make_staging, put_in_place
from megatron_k15.checkpoint.save_strategy import SaveStrategy
from megatron_k15.errors import CheckpointError
from megatron_k15.parallel.context import ParallelContext

log = logging.getLogger(__name__)

MASTER_FILE = "master.json"
_NAME = re.compile(r"iteration_(\d{7,})")
_SLACK_BYTES = 256 * 2**10
"""Disk space asked for beyond the tensors: metadata and headers of records."""


def save_resume(
    root: Path,
    iteration: int,
    sharded_state_dict: dict[str, Any],
    master_state: Mapping[str, Any],
    *,
    context: ParallelContext,
    num_kept: int,
    attachments: Mapping[str, Path] = MappingProxyType({}),
) -> Path:
    """Collective over all ranks. Save, then remove all but the newest `num_kept` checkpoints of `root`.

    Rank 0's `master_state` (JSON values) is the one that is saved, and its `attachments`: finished files that go in
    under the names given, as links where the file system has them.

    Raises:
        CheckpointError: on every rank, when it failed on any (a full disk). Earlier checkpoints stay as they are.
    """
    target = root / f"iteration_{iteration:07d}"
    what = f"checkpoint {target} could not be saved"
    staging: Path | None = None
    try:
        with all_or_none(what):
            if context.rank == 0:
                root.mkdir(parents=True, exist_ok=True)
                _remove_leftovers(root)
                staging = make_staging(target)
        folder = from_rank_zero(staging)
        with all_or_none(what):
            _check_space(folder, sharded_state_dict)
        with all_or_none(what):
            dist_checkpointing.save(sharded_state_dict, str(folder), sharded_strategy=SaveStrategy())
        with all_or_none(what):
            if context.rank == 0:
                (folder / MASTER_FILE).write_text(json.dumps(master_state), encoding="utf-8")
                for name, source in attachments.items():
                    _link_or_copy(source, folder / name)
        checksums = _shared_checksums(folder, context, what)
        with all_or_none(what):
            if context.rank == 0:
                manifest.write(folder, {"iteration": iteration}, checksums=checksums)
                put_in_place(folder, target)
                _remove_old(root, num_kept)
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def find_newest(root: Path) -> Path | None:
    """The newest complete checkpoint of `root`; None where there is none at all. Damaged ones are named in the log.

    Raises:
        CheckpointError: there are checkpoints, and all of them are damaged; says what is wrong with each.
    """
    damaged = []
    for path in reversed(_checkpoints(root)):
        try:
            manifest.check_sizes(path, manifest.read(path))
        except CheckpointError as error:
            damaged.append(str(error))
            log.warning("skipping a checkpoint: %s", error)
        else:
            return path
    if damaged:
        raise CheckpointError(
            f"no checkpoint of {root} can be used: {'; '.join(damaged)}. Restore one, or start anew with "
            "checkpoint.resume=false"
        )
    return None


def load_resume(
    path: Path, sharded_state_dict: dict[str, Any], *, context: ParallelContext
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Collective over all ranks: (loaded state dict, the master's state). Each rank first checks a share of the files.

    Raises:
        CheckpointError: on every rank, when a file is missing or damaged (by name), or what it holds does not fit.
    """
    what = f"checkpoint {path} could not be loaded"
    with all_or_none(what):
        facts = manifest.read(path)
        manifest.check_sizes(path, facts)
        share = sorted(facts["files"])[context.rank :: context.world_size]
        manifest.check_content(path, {"files": {name: facts["files"][name] for name in share}})
    with all_or_none(what):
        loaded = dist_checkpointing.load(sharded_state_dict, str(path))
        master_state = json.loads((path / MASTER_FILE).read_text(encoding="utf-8"))
    return loaded, master_state


def _check_space(folder: Path, sharded_state_dict: dict[str, Any]) -> None:
    """Ask before writing: megatron-core's save waits for a rank that fails in the middle of it (0.16.1)."""
    needed: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(needed, sum(_num_bytes(value) for value in nested_values(sharded_state_dict)))
    free = shutil.disk_usage(folder).free
    if free < sum(needed) + _SLACK_BYTES:
        raise CheckpointError(
            f"no space left on device: it takes {sum(needed) + _SLACK_BYTES:,} bytes, {free:,} are free; make room, or "
            "lower checkpoint.num_kept"
        )


def _num_bytes(value: object) -> int:
    if isinstance(value, ShardedTensor | ShardedTensorFactory) and is_main_replica(value.replica_id):
        return getattr(value.data, "nbytes", 0)
    return 0


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _shared_checksums(folder: Path, context: ParallelContext, what: str) -> dict[str, str]:
    """Of all files, each rank computing some."""
    mine: dict[str, str] = {}
    with all_or_none(what):
        names = sorted(path.name for path in folder.iterdir())
        mine = {name: manifest.checksum(folder / name) for name in names[context.rank :: context.world_size]}
    shares: list[dict[str, str]] = [{} for _ in range(context.world_size)]
    dist.all_gather_object(shares, mine)
    return {name: value for share in shares for name, value in share.items()}


def _checkpoints(root: Path) -> list[Path]:
    """Oldest first."""
    if not root.is_dir():
        return []
    found = [(int(match[1]), path) for path in root.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _remove_old(root: Path, num_kept: int) -> None:
    """Renamed before it is removed, so that a half-removed checkpoint is not taken for a damaged one."""
    for path in _checkpoints(root)[:-num_kept]:
        shutil.rmtree(path.rename(root / f".{path.name}.tmp"), ignore_errors=True)


def _remove_leftovers(root: Path) -> None:
    """What a run that was killed while saving left behind."""
    for path in root.glob(".iteration_*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
