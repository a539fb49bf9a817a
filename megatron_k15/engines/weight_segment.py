"""The shared memory in which the trainers hand weights to vLLM (§2.6.3): one file in /dev/shm, each tensor once, in
its full Hugging Face shape.

    header page │ tensor 0 │ tensor 1 │ …            tensors start at multiples of 64 bytes

Both sides import this file: it knows neither vLLM nor megatron. One process creates the segment, the other trainer
ranks open it and write their slices into `tensor(name)`, vLLM's workers open it read-only. The header says which
version is in it, and whether whole; the order over processes comes from who calls whom, not from the header, which is
there to catch a sender that broke that order.

    layout = SegmentLayout.plan([("lm_head.weight", (320, 64)), …], "fp32")
    segment = WeightSegment.create(layout)
    segment.begin(7)
    …                                                   every rank writes its slices of segment.tensor(name)
    checksums = {slot.name: segment.checksum(slot.name) for slot in layout.slots}
    segment.complete(7, checksums)
    await pool.update_weights(update_info(segment, 7, checksums), 7)
"""

import contextlib
import errno
import fcntl
import json
import math
import mmap
import os
import re
import secrets
import stat
import struct
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
import xxhash

from megatron_k15.errors import TransferError

SegmentDtype = Literal["fp32", "bf16"]
TORCH_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}

SHARED_MEMORY_DIR = Path("/dev/shm")
NAME_PREFIX = "k15_weights_"
HEADER_BYTES = 4096
ALIGNMENT_BYTES = 64
HEADER = struct.Struct("<8sIQ16s16s")
"""magic, state, version, digest of the layout, digest of the checksums."""
MAGIC = b"K15WSEG1"
WRITING, COMPLETE = 1, 2


@dataclass(frozen=True, kw_only=True)
class TensorSlot:
    """Where one tensor lies, in bytes from the start of the segment."""

    name: str
    shape: tuple[int, ...]
    dtype: SegmentDtype
    offset: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class SegmentLayout:
    slots: tuple[TensorSlot, ...]
    """In the order given to `plan`, which is the order in which vLLM loads them: keep a layer's tensors together."""
    dtype: SegmentDtype
    total_bytes: int
    """Size of the file, header page and padding included."""
    digest: str
    """xxh3_128 of names, shapes and dtype: equal digests are equal layouts."""

    @classmethod
    def plan(cls, tensors: Iterable[tuple[str, tuple[int, ...]]], dtype: str) -> Self:
        """Lay out tensors, given as (Hugging Face name, full shape), all of one dtype (`fp32` or `bf16`).

        Raises:
            TransferError: no tensor, a name given twice, an empty shape, or another dtype.
        """
        if dtype not in TORCH_DTYPES:
            raise TransferError(f"a weight segment holds {' or '.join(TORCH_DTYPES)}, got {dtype!r}")
        slots: list[TensorSlot] = []
        offset = HEADER_BYTES
        for name, shape in tensors:
            num_bytes = math.prod(shape) * TORCH_DTYPES[dtype].itemsize
            if num_bytes <= 0:
                raise TransferError(f"{name}: a weight segment holds tensors with elements, got shape {tuple(shape)}")
            slots.append(
                TensorSlot(name=name, shape=tuple(shape), dtype=dtype, offset=offset, num_bytes=num_bytes)  # type: ignore[arg-type]
            )
            offset += -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        names = [slot.name for slot in slots]
        if not names or len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise TransferError(f"a weight segment holds each tensor once, and at least one; given twice: {twice}")
        described = json.dumps([dtype, [[slot.name, slot.shape] for slot in slots]])
        digest = xxhash.xxh3_128_hexdigest(described.encode())
        return cls(slots=tuple(slots), dtype=dtype, total_bytes=offset, digest=digest)  # type: ignore[arg-type]


class WeightSegment:
    """A mapped segment. `create` on one process, `open` on all others; tensors stay valid after `close`."""

    def __init__(self, path: Path, layout: SegmentLayout, fd: int, *, writable: bool) -> None:
        self.path = path
        self.layout = layout
        self._fd = fd
        self._slots = {slot.name: slot for slot in layout.slots}
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._map: mmap.mmap | None = mmap.mmap(fd, layout.total_bytes, flags=mmap.MAP_SHARED, prot=protection)
        self._tensors: dict[str, torch.Tensor] = {}

    @classmethod
    def create(cls, layout: SegmentLayout, *, name: str | None = None) -> Self:
        """Make a new segment, mode 0600, all its memory taken and touched now.

        Memory is taken here so that a full /dev/shm is an error and not a SIGBUS in the middle of a copy, and touched
        here because the first write to a page costs six times as much as later ones.

        Raises:
            TransferError: /dev/shm is too small, or `name` exists.
        """
        path = SHARED_MEMORY_DIR / (name or f"{NAME_PREFIX}{os.getpid()}_{secrets.token_hex(6)}")
        fd = _open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)  # held while this process lives: see remove_stale_segments
            os.posix_fallocate(fd, 0, layout.total_bytes)
            segment = cls(path, layout, fd, writable=True)
            torch.frombuffer(segment._memory, dtype=torch.uint8)[:: mmap.PAGESIZE].zero_()
        except OSError as error:
            os.close(fd)
            path.unlink(missing_ok=True)
            if error.errno != errno.ENOSPC:
                raise
            free = os.statvfs(SHARED_MEMORY_DIR)
            raise TransferError(
                f"the weights need {layout.total_bytes / 1e6:.1f} MB in {SHARED_MEMORY_DIR}, where "
                f"{free.f_bavail * free.f_frsize / 1e6:.1f} of {free.f_blocks * free.f_frsize / 1e6:.1f} MB are free; "
                "remove old files there, or enlarge it (docker: --shm-size)"
            ) from error
        segment._write_header(state=0, version=0)
        return segment

    @classmethod
    def open(cls, path: str | Path, layout: SegmentLayout, *, writable: bool = True) -> Self:
        """Map a segment that another process of ours created.

        Raises:
            TransferError: not a file in /dev/shm, not ours, or not of this layout.
        """
        path = Path(path)
        if path.parent != SHARED_MEMORY_DIR:
            raise TransferError(f"a weight segment is a file directly in {SHARED_MEMORY_DIR}, got {path}")
        fd = _open_file(path, os.O_RDWR if writable else os.O_RDONLY)
        try:
            _check_file(path, os.fstat(fd), layout)
            segment = cls(path, layout, fd, writable=writable)
            segment._read_header()
        except BaseException:
            os.close(fd)
            raise
        return segment

    def tensor(self, hf_name: str) -> torch.Tensor:
        """The tensor inside the segment, full Hugging Face shape: writing to it writes the segment.

        Raises:
            TransferError: the layout has no tensor of that name.
        """
        if hf_name not in self._tensors:
            slot = self._slot(hf_name)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given buffer is not writable")  # so it should be, in vLLM
                flat = torch.frombuffer(
                    self._memory, dtype=TORCH_DTYPES[slot.dtype], count=math.prod(slot.shape), offset=slot.offset
                )
            self._tensors[hf_name] = flat.view(slot.shape)
        return self._tensors[hf_name]

    def body(self) -> memoryview:
        """All bytes behind the header, writable: tensors and the padding between them."""
        return memoryview(self._memory)[HEADER_BYTES:]

    def begin(self, version: int) -> None:
        """Mark the segment as being written. Called before the first tensor of `version` is written."""
        self._write_header(state=WRITING, version=version)

    def checksum(self, hf_name: str) -> str:
        """xxh3_128 of the tensor's bytes, as hex. Runs without the GIL, at memory speed."""
        slot = self._slot(hf_name)
        with memoryview(self._memory) as everything, everything[slot.offset : slot.offset + slot.num_bytes] as ours:
            return xxhash.xxh3_128_hexdigest(ours)

    def complete(self, version: int, checksums: Mapping[str, str]) -> None:
        """Mark `version` as whole. Called after the last write, with the checksum of every tensor."""
        state, begun, _ = self._read_header()
        if (state, begun) != (WRITING, version):
            raise TransferError(f"begin({version}) comes before complete({version}); the segment says {self._says()}")
        self._write_header(state=COMPLETE, version=version, checksums_digest=_digest(self.layout, checksums))

    def check_complete(self, version: int, checksums: Mapping[str, str]) -> None:
        """Raise TransferError unless the header says that this version, with these checksums, is whole."""
        state, found_version, found_digest = self._read_header()
        if (state, found_version, found_digest) != (COMPLETE, version, _digest(self.layout, checksums)):
            raise TransferError(
                f"{self.path} must hold weight version {version}, complete; it says {self._says()}"
                + (", with other checksums" if (state, found_version) == (COMPLETE, version) else "")
            )

    def close(self) -> None:
        """Let go of the mapping; it ends with the last tensor taken from it. The file stays. May be called twice."""
        if self._map is not None:
            self._tensors.clear()
            self._map = None
            os.close(self._fd)

    def unlink(self) -> None:
        """Remove the file's name. Processes that have it mapped keep their view."""
        self.path.unlink(missing_ok=True)

    @property
    def _memory(self) -> mmap.mmap:
        if self._map is None:
            raise TransferError(f"weight segment {self.path} has been closed")
        return self._map

    def _slot(self, hf_name: str) -> TensorSlot:
        if hf_name not in self._slots:
            raise TransferError(f"weight segment {self.path} has no tensor {hf_name!r}")
        return self._slots[hf_name]

    def _write_header(self, *, state: int, version: int, checksums_digest: bytes = bytes(16)) -> None:
        HEADER.pack_into(self._memory, 0, MAGIC, state, version, bytes.fromhex(self.layout.digest), checksums_digest)

    def _read_header(self) -> tuple[int, int, bytes]:
        """(state, version, digest of the checksums)."""
        magic, state, version, layout_digest, checksums_digest = HEADER.unpack_from(self._memory, 0)
        if magic != MAGIC or layout_digest.hex() != self.layout.digest:
            raise TransferError(f"{self.path} is not a weight segment of the announced names, shapes and dtype")
        return state, version, checksums_digest

    def _says(self) -> str:
        state, version, _ = self._read_header()
        return {WRITING: f"writing version {version}", COMPLETE: f"version {version} is complete"}.get(state, "empty")


def update_info(segment: WeightSegment, version: int, checksums: Mapping[str, str]) -> dict[str, Any]:
    """What a receiver needs to load the segment, as JSON values; `read_layout` reads it back."""
    return {
        "path": str(segment.path),
        "version": version,
        "dtype": segment.layout.dtype,
        "tensors": [[slot.name, list(slot.shape), checksums[slot.name]] for slot in segment.layout.slots],
    }


def read_layout(dtype: str, tensors: Iterable[tuple[str, list[int], str]]) -> tuple[SegmentLayout, dict[str, str]]:
    """The layout and the checksums that `update_info` described. Offsets follow from the names and shapes."""
    named = [(name, tuple(shape), checksum) for name, shape, checksum in tensors]
    layout = SegmentLayout.plan(((name, shape) for name, shape, _ in named), dtype)
    return layout, {name: checksum for name, _, checksum in named}


def remove_stale_segments() -> list[Path]:
    """Remove segments whose creator is dead, and return their paths.

    The process id in the name may belong to another container that shares /dev/shm with us; the creator's lock on the
    file tells, whatever the container.
    """
    removed = []
    for path in sorted(SHARED_MEMORY_DIR.glob(f"{NAME_PREFIX}*")):
        match = re.fullmatch(rf"{NAME_PREFIX}(\d+)_[0-9a-f]+", path.name)
        if match and not Path(f"/proc/{match[1]}").exists() and _is_unlocked(path):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _is_unlocked(path: Path) -> bool:
    """True if no living process created it; False too for a file of someone else."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.fstat(fd).st_uid == os.geteuid()
        finally:
            os.close(fd)
    return False


def _open_file(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TransferError(f"weight segment {path} cannot be opened: {error.strerror}") from error


def _check_file(path: Path, found: os.stat_result, layout: SegmentLayout) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise TransferError(
            f"weight segment {path} must be a plain file of user {os.geteuid()} that only this user may open; it "
            f"belongs to {found.st_uid}, mode {stat.filemode(found.st_mode)}"
        )
    if found.st_size != layout.total_bytes:
        raise TransferError(f"weight segment {path} must have {layout.total_bytes} bytes, it has {found.st_size}")


def _digest(layout: SegmentLayout, checksums: Mapping[str, str]) -> bytes:
    names = [slot.name for slot in layout.slots]
    if odd := sorted(set(names) ^ set(checksums)):
        raise TransferError(f"every tensor of the segment needs a checksum; without one, or unknown: {odd[:5]}")
    return xxhash.xxh3_128_digest(json.dumps([[name, checksums[name]] for name in names]).encode())
