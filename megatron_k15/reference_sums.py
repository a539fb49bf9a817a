"""DPO's reference: Σ log π of every answer under the start model, computed once and kept beside the prepared data."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.distributed as dist

from megatron_k15.data.packed_plan import Pack
from megatron_k15.data.token_file import TokenFile
from megatron_k15.json_lines import write_whole
from megatron_k15.packed_stream import PackedStream
from megatron_k15.stage_parts import Stage
from megatron_k15.training.preferences import Preferences
from megatron_k15.training.trainer import Trainer

FILE = "reference_sums.jsonl"
PACKS_AT_ONCE = 64
"""Laid out in memory at one time, over all ranks."""


def reference_sums(
    trainer: Trainer, objective: Preferences, tokens: TokenFile, stream: PackedStream, stage: Stage
) -> tuple[np.ndarray, str]:
    """Collective: (float32 [S], the same on every rank, 0 for what no phase trains on; fingerprint).

    Args:
        trainer: with the start model's weights.
    """
    path = stage.run_dir / FILE
    fingerprint = _fingerprint(tokens, stage.model_dir)
    found: list[np.ndarray | None] = [_read(path, fingerprint) if stage.context.rank == 0 else None]
    dist.broadcast_object_list(found, src=0)
    if found[0] is not None:
        return found[0], fingerprint
    sums = np.zeros(tokens.num_sequences, dtype=np.float32)
    packs = stream.packs_of_all()
    with stage.progress.phase("computing the reference's logprobs") as update:
        for start in range(0, len(packs), PACKS_AT_ONCE):
            for number, value in _sums(trainer, objective, packs[start : start + PACKS_AT_ONCE], stream).items():
                sums[number] = value
            update(f"{min(start + PACKS_AT_ONCE, len(packs))} of {len(packs)} packs")
    if stage.context.rank == 0:
        write_whole(path, [{"fingerprint": fingerprint}, *({"sum": float(value)} for value in sums)])
    return sums, fingerprint


def _sums(trainer: Trainer, objective: Preferences, packs: Sequence[Pack], stream: PackedStream) -> dict[int, float]:
    """By sequence, over all ranks."""
    batches = stream.batches(packs)
    mine: dict[int, float] = {}
    for batch, found in zip(batches, trainer.evaluate(batches, objective.sums), strict=True):
        if found is not None:
            mine |= dict(zip(batch.sources, found.tolist(), strict=True))
    gathered: list[dict[int, float]] = [{} for _ in range(trainer.context.world_size)]
    dist.all_gather_object(gathered, mine if trainer.context.tensor_rank == 0 else {})
    return {number: value for part in gathered for number, value in part.items()}


def _fingerprint(tokens: TokenFile, model_dir: Path) -> str:
    """Of the data and, by name, size and time, of the model's weights."""
    weights = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in model_dir.glob("*.safetensors")]
    text = f"{tokens.facts['fingerprint']} {model_dir.resolve()} {sorted(weights)}"
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path, fingerprint: str) -> np.ndarray | None:
    try:
        first, *rest = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        if first["fingerprint"] == fingerprint:
            return np.array([record["sum"] for record in rest], dtype=np.float32)
    except (OSError, ValueError, KeyError):
        pass
    return None
