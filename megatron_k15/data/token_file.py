"""Encoded sequences on the disk, read by every rank as mapped memory: a million chats are tokenized once.

    <directory>/  tokens.bin  uint32, all sequences end to end     bounds.npy  int64 [S + 1]
                  mask.bin    uint8, aligned with it               labels.npy  float32 [S]
                  loss_tokens.npy  int64 [S]                       rows.npy    int64 [S, 2]: file, line
                  facts.json  fingerprint, files, counts

The directory appears when all of it is on the disk.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from megatron_k15.checkpoint.new_directory import make_staging, put_in_place
from megatron_k15.data.encoded import Encoded
from megatron_k15.errors import DataError
from megatron_k15.types import TrainingSequence

FACTS = "facts.json"
Row = tuple[int, int]
"""Number of the file, line in it."""


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    directory: Path
    facts: Mapping[str, Any]
    bounds: np.ndarray
    labels: np.ndarray
    loss_tokens: np.ndarray
    """[S]: tokens of each sequence in the loss."""
    rows: np.ndarray
    _tokens: np.ndarray
    _mask: np.ndarray

    @classmethod
    def open(cls, directory: Path) -> Self:
        """
        Raises:
            DataError: a file is missing or does not fit the others.
        """
        try:
            facts = json.loads((directory / FACTS).read_text(encoding="utf-8"))
            bounds = np.load(directory / "bounds.npy")
            found = cls(
                directory=directory,
                facts=facts,
                bounds=bounds,
                labels=np.load(directory / "labels.npy"),
                loss_tokens=np.load(directory / "loss_tokens.npy"),
                rows=np.load(directory / "rows.npy"),
                _tokens=_mapped(directory / "tokens.bin", np.dtype(np.uint32), int(bounds[-1])),
                _mask=_mapped(directory / "mask.bin", np.dtype(np.uint8), int(bounds[-1])),
            )
        except (OSError, ValueError) as error:
            raise DataError(f"prepared data {directory} is damaged: {error}; remove it to prepare it again") from error
        return found

    @property
    def num_sequences(self) -> int:
        return len(self.bounds) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 [S], in tokens."""
        return np.diff(self.bounds)

    def where(self, index: int) -> str:
        """File and line that the sequence comes from."""
        file, line = self.rows[index]
        return f"{self.facts['files'][file]}:{line}"

    def sequence(self, index: int, *, weight: float, reference: float = 0.0) -> TrainingSequence:
        start, end = int(self.bounds[index]), int(self.bounds[index + 1])
        return TrainingSequence(
            token_ids=tuple(self._tokens[start:end].tolist()),
            loss_mask=tuple(self._mask[start:end].astype(bool).tolist()),
            behaviour_logprobs=(0.0,) * (end - start),
            label=float(self.labels[index]),
            reference=reference,
            weight=weight,
        )


def write_token_file(directory: Path, sequences: Iterable[tuple[Row, Encoded]], facts: Mapping[str, Any]) -> None:
    """Write `directory`, or replace what is there, once all of it is written. `facts` are JSON values.

    `sequences` may settle what is wrong with them at their end: an error there leaves nothing behind.
    """
    staging = make_staging(directory)
    try:
        bounds, labels, loss_tokens, rows = [0], [], [], []
        with (staging / "tokens.bin").open("wb") as tokens, (staging / "mask.bin").open("wb") as mask:
            for row, sequence in sequences:
                rows.append(row)
                tokens.write(np.array(sequence.token_ids, dtype=np.uint32).tobytes())
                mask.write(np.array(sequence.loss_mask, dtype=np.uint8).tobytes())
                bounds.append(bounds[-1] + len(sequence.token_ids))
                labels.append(sequence.label)
                loss_tokens.append(sequence.num_loss_tokens)
        np.save(staging / "bounds.npy", np.array(bounds, dtype=np.int64))
        np.save(staging / "labels.npy", np.array(labels, dtype=np.float32))
        np.save(staging / "loss_tokens.npy", np.array(loss_tokens, dtype=np.int64))
        np.save(staging / "rows.npy", np.array(rows, dtype=np.int64))
        (staging / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        put_in_place(staging, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _mapped(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    if path.stat().st_size != count * dtype.itemsize:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, must have {count * dtype.itemsize}")
    return np.memmap(path, dtype=dtype, mode="r") if count else np.empty(0, dtype)
