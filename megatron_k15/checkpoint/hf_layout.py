"""Where each tensor stands in the safetensors files of a Hugging Face directory, and what else belongs there."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from megatron_k15.models.hf_files import DTYPES
from megatron_k15.models.weight_files import INDEX_FILE, SINGLE_FILE

MAX_FILE_BYTES = 5 * 10**9
"""transformers' own limit per file is 5 GB as well."""


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One safetensors file: `header`, then the tensors without gaps."""

    name: str
    header: bytes
    """With its length before it."""
    starts: dict[str, int]
    """Hugging Face name → first byte of the tensor in the file; in the file's order."""
    num_bytes: int


def plan_files(
    shapes: Iterable[tuple[str, tuple[int, ...]]], dtype: torch.dtype, *, max_file_bytes: int = MAX_FILE_BYTES
) -> list[WeightFile]:
    """Fill files in the order given; a tensor larger than the limit gets a file of its own."""
    groups: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = 0
    for name, shape in shapes:
        size = prod(shape) * dtype.itemsize
        if groups[-1] and filled + size > max_file_bytes:
            groups.append([])
            filled = 0
        groups[-1].append((name, shape))
        filled += size
    if len(groups) == 1:
        return [_plan_file(SINGLE_FILE, groups[0], dtype)]
    return [
        _plan_file(f"model-{number:05d}-of-{len(groups):05d}.safetensors", group, dtype)
        for number, group in enumerate(groups, start=1)
    ]


def _plan_file(name: str, tensors: list[tuple[str, tuple[int, ...]]], dtype: torch.dtype) -> WeightFile:
    dtype_name = next(key for key, value in DTYPES.items() if value == dtype)
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets: dict[str, int] = {}
    end = 0
    # By name, as the safetensors library writes them: the same tensors then make the same file, byte for byte.
    for tensor_name, shape in sorted(tensors):
        offsets[tensor_name] = end
        end += prod(shape) * dtype.itemsize
        entries[tensor_name] = {"dtype": dtype_name, "shape": list(shape), "data_offsets": [offsets[tensor_name], end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    starts = {tensor_name: len(header) + offset for tensor_name, offset in offsets.items()}
    return WeightFile(name=name, header=header, starts=starts, num_bytes=len(header) + end)


def write_index(directory: Path, files: list[WeightFile]) -> None:
    """The index that several files need; nothing for a single one."""
    if len(files) == 1:
        return
    total = sum(file.num_bytes - len(file.header) for file in files)
    names = {name: file.name for file in files for name in file.starts}
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": names}, indent=2)
    (directory / INDEX_FILE).write_text(text + "\n", encoding="utf-8")


def set_config_dtype(directory: Path, dtype: torch.dtype) -> None:
    """Make config.json say what the weights are; it stays byte for byte where it says so already."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # transformers 4 writes `torch_dtype`, transformers 5 `dtype`; both read both.
    key = "torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"
    name = str(dtype).removeprefix("torch.")
    if config.get(key) != name:
        path.write_text(json.dumps({**config, key: name}, indent=2) + "\n", encoding="utf-8")


def change_config(directory: Path, changes: Mapping[str, Any]) -> None:
    """Set entries of config.json; without changes it stays byte for byte."""
    path = directory / "config.json"
    if changes:
        config = {**json.loads(path.read_text(encoding="utf-8")), **changes}
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
