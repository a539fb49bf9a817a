"""Whether models may be averaged: same architecture, same tokenizer, same tensors. No torch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_k15.errors import ModelError
from megatron_k15.models.weight_files import StoredPlace, listed, read_header, weight_files

Places = Mapping[str, StoredPlace]

NOT_COMPARED = frozenset(
    {
        "_name_or_path",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Entries of config.json that say nothing of what the weights mean; the dtype is compared on the tensors."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
SLOW_TOKENIZER_FILES = ("added_tokens.json", "*.tiktoken")
"""Compared where there is no tokenizer.json, which would hold all that they say."""


def open_all(directories: Sequence[Path]) -> list[Places]:
    """Every model's tensors.

    Raises:
        ModelError: one is damaged, or does not fit the first; the message names the tensor, entry or file.
    """
    found = [_places(directory) for directory in directories]
    for directory, places in zip(directories[1:], found[1:], strict=True):
        check_companions(directories[0], directory)
        _check_tensors(directories[0], found[0], directory, places)
    return found


def check_companions(first: Path, other: Path) -> None:
    """
    Raises:
        ModelError: another config.json or tokenizer.
    """
    ours, theirs = _config(first), _config(other)
    names = sorted(name for name in {*ours, *theirs} - NOT_COMPARED if ours.get(name) != theirs.get(name))
    if names:
        shown = "; ".join(f"{name}: {ours.get(name)!r} and {theirs.get(name)!r}" for name in names[:4])
        raise ModelError(f"models must have the same architecture; {first} and {other} differ in {shown}")
    for name in _tokenizer_files(first, other):
        if _digest(first / name) != _digest(other / name):
            raise ModelError(f"models must have the same tokenizer; {name} of {first} and {other} differ")


def _tokenizer_files(first: Path, other: Path) -> list[str]:
    names = list(TOKENIZER_FILES)
    if not (first / "tokenizer.json").exists():
        found = {
            path.name for part in (first, other) for pattern in SLOW_TOKENIZER_FILES for path in part.glob(pattern)
        }
        names += sorted(found)
    return names


def _check_tensors(first: Path, ours: Places, other: Path, theirs: Places) -> None:
    if missing := [name for name in ours if name not in theirs]:
        raise ModelError(f"models must have the same tensors; {other} lacks {listed(missing)} of {first}")
    if extra := [name for name in theirs if name not in ours]:
        raise ModelError(f"models must have the same tensors; {other} has {listed(extra)}, {first} has not")
    for name, place in ours.items():
        mine, its = (place.shape, place.dtype), (theirs[name].shape, theirs[name].dtype)
        if mine != its:
            raise ModelError(
                f"{name} must be the same in all models; it is {place.dtype} {list(place.shape)} in {first} and "
                f"{theirs[name].dtype} {list(theirs[name].shape)} in {other}"
            )


def _places(directory: Path) -> Places:
    found: dict[str, StoredPlace] = {}
    for path in weight_files(directory):
        places, others = read_header(path)
        if others:
            raise ModelError(f"{path}: tensors must be F32, F16 or BF16; got {listed(others)}")
        if twice := found.keys() & places.keys():
            raise ModelError(f"{directory}: in more than one file: {listed(sorted(twice))}")
        found |= places
    if not found:
        raise ModelError(f"a model has tensors; the files of {directory} hold none")
    return found


def _config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"a model directory has a config.json, as JSON; {path}: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} must hold an object, got {type(config).__name__}")
    return config


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
