"""`k15_manifest.json`: the size and the checksum of every file of a checkpoint, so that a damaged one is noticed.

The checksums (XXH3, 128 bits, 27 GB/s) find accidents, not forgery: nothing in a checkpoint is trusted because of them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from megatron_k15.errors import CheckpointError

NAME = "k15_manifest.json"
FORMAT = 1
_PIECE_BYTES = 4 * 2**20


def checksum(path: Path) -> str:
    digest = xxhash.xxh3_128()
    piece = memoryview(bytearray(_PIECE_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()


def write(directory: Path, facts: Mapping[str, Any], *, checksums: Mapping[str, str] | None = None) -> None:
    """Describe all files of `directory`; `checksums` are those already known, by relative path. `facts` go in too."""
    known = checksums or {}
    files = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = path.relative_to(directory).as_posix()
        files[name] = {"bytes": path.stat().st_size, "xxh3_128": known.get(name) or checksum(path)}
    text = json.dumps({"format": FORMAT, **facts, "files": files}, indent=1)
    (directory / NAME).write_text(text + "\n", encoding="utf-8")


def read(directory: Path) -> dict[str, Any]:
    """
    Raises:
        CheckpointError: none there, or not one of ours.
    """
    path = directory / NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {manifest['format']}; this version reads {FORMAT}")
        for entry in manifest["files"].values():
            _ = int(entry["bytes"]), str(entry["xxh3_128"])
        return manifest
    except FileNotFoundError as error:
        raise CheckpointError(f"{directory} is incomplete: {NAME} is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from error


def check_sizes(directory: Path, manifest: Mapping[str, Any]) -> None:
    """
    Raises:
        CheckpointError: a file is missing or has another size, by name.
    """
    for name, entry in manifest["files"].items():
        path = directory / name
        if not path.is_file():
            raise CheckpointError(f"{directory} is incomplete: {name} is missing")
        if path.stat().st_size != entry["bytes"]:
            raise CheckpointError(
                f"{directory} is damaged: {name} has {path.stat().st_size} bytes, must have {entry['bytes']}"
            )


def check_content(directory: Path, manifest: Mapping[str, Any]) -> None:
    """
    Raises:
        CheckpointError: a file's checksum differs, by name.
    """
    for name, entry in manifest["files"].items():
        if checksum(directory / name) != entry["xxh3_128"]:
            raise CheckpointError(f"{directory} is damaged: {name} does not have the checksum that {NAME} gives")
