"""Where the tensors of a Hugging Face directory stand in its safetensors files. No torch, so that it starts at once."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from megatron_k15.errors import ModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
"""The dtypes that we read and write, by safetensors' names."""

_NAMES_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class StoredPlace:
    """A tensor's bytes. `start` is absolute within the file."""

    path: Path
    start: int
    dtype: str
    """safetensors' name."""
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def weight_files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise ModelError(f"a model is a Hugging Face directory; {directory} is none")
    if (directory / SINGLE_FILE).is_file():
        return [directory / SINGLE_FILE]
    if not (directory / INDEX_FILE).is_file():
        bins = sorted(path.name for path in directory.glob("*.bin"))
        advice = f"; {listed(bins)} are pickles, which we do not read: save the model as safetensors" if bins else ""
        raise ModelError(f"a model directory needs {SINGLE_FILE} or {INDEX_FILE}; {directory} has neither{advice}")
    names = _index_files(directory / INDEX_FILE)
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ModelError(f"{directory}: {INDEX_FILE} names files that are not there: {listed(missing)}")
    return [directory / name for name in names]


def _index_files(path: Path) -> list[str]:
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} must be JSON with a `weight_map` of tensor names to file names: {error!r}") from error
    outside = [str(name) for name in names if not isinstance(name, str) or Path(name).name != name]
    if outside:
        raise ModelError(f"{path} must name files of its own directory, got {listed(outside)}")
    return sorted(names)


def read_header(path: Path) -> tuple[dict[str, StoredPlace], list[str]]:
    """The file's tensors by name, and the names (with their dtypes) of those of other dtypes than ours.

    Raises:
        ModelError: the file is damaged.
    """
    try:
        # The library checks sizes, offsets and overlaps against the file's length.
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or incomplete: {error}; copy it again") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    places = {
        name: StoredPlace(
            path=path,
            start=8 + length + entry["data_offsets"][0],
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
        )
        for name, entry in header.items()
        if entry["dtype"] in ITEM_BYTES
    }
    return places, [f"{name} ({entry['dtype']})" for name, entry in header.items() if name not in places]


def listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
