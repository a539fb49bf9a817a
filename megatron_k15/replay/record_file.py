"""An append-only file of checksummed records.

    frame │ payload │ frame │ payload │ …        frame: magic, payload's length, payload's checksum, frame's checksum

A record is on the disk when `append` returns. A write that was cut short (a kill, a full disk) leaves a torn tail:
reading passes over it, the next writer cuts it off. A bad frame with good ones behind it is damage, and is refused.
"""

import mmap
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash

from megatron_k15.errors import ReplayError

FRAME = struct.Struct("<4sQQQ")
MAGIC = b"K15R"


class Place(NamedTuple):
    """Where a payload lies."""

    path: Path
    offset: int
    num_bytes: int


def frame(payload: bytes) -> bytes:
    head = struct.pack("<4sQQ", MAGIC, len(payload), xxhash.xxh3_64_intdigest(payload))
    return head + struct.pack("<Q", xxhash.xxh3_64_intdigest(head)) + payload


def read(place: Place) -> bytes:
    """
    Raises:
        ReplayError: the record is not there any more, or is damaged.
    """
    try:
        with place.path.open("rb") as file:
            file.seek(place.offset - FRAME.size)
            data = file.read(FRAME.size + place.num_bytes)
    except OSError as error:
        raise ReplayError(f"the replay buffer needs {place.path}: {error.strerror}") from error
    payload = _payload(data, 0)
    if payload is None:
        raise ReplayError(f"{place.path} is damaged at byte {place.offset}: the record's checksum is another one")
    return bytes(payload)


def scan(path: Path) -> Iterator[tuple[Place, bytes]]:
    """All whole records, in the order in which they were written.

    Raises:
        ReplayError: a damaged record with whole ones behind it.
    """
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        position = 0
        while (payload := _payload(data, position)) is not None:
            place = Place(path, position + FRAME.size, len(payload))
            yield place, payload
            position = place.offset + place.num_bytes
        if _good_frame_behind(data, position):
            raise ReplayError(
                f"{path} is damaged at byte {position}, with whole records behind it: restore the file, or delete "
                "it and start from the newest checkpoint"
            )


class RecordWriter:
    """Appends to one file; the only writer of it."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            ReplayError: what is there already is damaged, or the file cannot be made.
        """
        self.path = path
        self._end = 0
        if path.exists():
            for place, _ in scan(path):
                self._end = place.offset + place.num_bytes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(self._fd, self._end)
            _sync_folder(path.parent)
        except OSError as error:
            raise _not_written(path, error) from error

    def append(self, payloads: Sequence[bytes]) -> list[Place]:
        """Write and sync; all of `payloads` are durable afterwards.

        Raises:
            ReplayError: the disk is full, or refuses. Nothing of `payloads` is kept.
        """
        places, offset = [], self._end
        for payload in payloads:
            places.append(Place(self.path, offset + FRAME.size, len(payload)))
            offset += FRAME.size + len(payload)
        try:
            _write_all(self._fd, b"".join(map(frame, payloads)), self._end)
            os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, self._end)
            raise _not_written(self.path, error) from error
        self._end = offset
        return places

    def close(self) -> None:
        os.close(self._fd)


def _payload(data: bytes | mmap.mmap, position: int) -> bytes | None:
    """Of the frame at `position`; None where there is no whole and undamaged one."""
    head = data[position : position + FRAME.size]
    if len(head) < FRAME.size:
        return None
    magic, num_bytes, checksum, head_checksum = FRAME.unpack(head)
    if magic != MAGIC or xxhash.xxh3_64_intdigest(head[:-8]) != head_checksum:
        return None
    payload = data[position + FRAME.size : position + FRAME.size + num_bytes]
    whole = len(payload) == num_bytes and xxhash.xxh3_64_intdigest(payload) == checksum
    return payload if whole else None


def _good_frame_behind(data: mmap.mmap, position: int) -> bool:
    while (position := data.find(MAGIC, position + 1)) >= 0:
        if _payload(data, position) is not None:
            return True
    return False


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _not_written(path: Path, error: OSError) -> ReplayError:
    try:
        free = f", {shutil.disk_usage(path.parent).free / 1e6:.1f} MB are free"
    except OSError:
        free = ""
    return ReplayError(
        f"the replay buffer must write {path}: {error.strerror or error}{free}. What was sampled before is safe: make "
        "room, then start the same command again"
    )
