"""What was sampled, by name: an index in memory, the records on the disk, one file per iteration.

    <directory>/iteration_0000012.log

A file holds what was recorded during its iteration, and nothing is added to it afterwards.
Records that arrive while a sync is under way share the next one, so that a busy rollout does not wait for the disk once
per response. Lives on one event loop.
"""

import asyncio
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from megatron_k15.errors import ReplayError
from megatron_k15.replay.record_file import Place, RecordWriter, read, scan
from megatron_k15.replay.records import from_bytes, read_facts, to_bytes
from megatron_k15.types import SegmentKey, SegmentRecord

_NAME = re.compile(r"iteration_(\d{7,})\.log")


class Entry(NamedTuple):
    place: Place
    run: str


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for the same bytes; a copy where the file system has no links between the two places."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def log_files(directory: Path) -> dict[int, Path]:
    """By iteration, oldest first."""
    if not directory.is_dir():
        return {}
    found = {int(match[1]): path for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


class SegmentJournal:
    def __init__(self, directory: Path, *, run: str) -> None:
        """
        Args:
            run: what decides the samples (seed, model, configuration), as one word. Records of another run are kept
                apart: they are not taken for what this one would sample.

        Raises:
            ReplayError: a file of `directory` is damaged.
        """
        self.directory = directory
        self._run = run
        self._index: dict[SegmentKey, Entry] = {}
        self._iteration = 0
        self._writer: RecordWriter | None = None
        self._disk = asyncio.Lock()
        self._batch: list[SegmentRecord] = []
        """Waits for the disk; `_flush` writes all of it at once."""
        self._flushing: asyncio.Task[None] | None = None
        """Of `_batch`."""
        for path in log_files(directory).values():
            self._read_file(path)

    def adopt(self, path: Path, name: str) -> None:
        """Link a file of a checkpoint into the journal, unless its own is still there.

        Raises:
            ReplayError: it is damaged, or cannot be linked.
        """
        own = self.directory / name
        if own.exists():
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, own)
        except OSError as error:
            raise ReplayError(f"{path} must be linked into the replay buffer: {error.strerror or error}") from error
        self._read_file(own)

    def _read_file(self, path: Path) -> None:
        for place, payload in scan(path):
            facts = read_facts(payload)
            self._index[facts.key] = Entry(place, facts.run)

    def next_piece(self, key: SegmentKey) -> SegmentRecord | None:
        """The record of that name, or of the same response and offset in the first later iteration that has one;
        whichever run sampled it."""
        for iteration in range(key.iteration, self._newest() + 1):
            entry = self._index.get(replace(key, iteration=iteration))
            if entry is not None:
                return from_bytes(read(entry.place))
        return None

    async def find(self, key: SegmentKey) -> SegmentRecord | None:
        """What this run sampled under that name before it was interrupted."""
        entry = self._index.get(key)
        if entry is None or entry.run != self._run:
            return None
        return from_bytes(read(entry.place))

    def _newest(self) -> int:
        return max((key.iteration for key in self._index), default=-1)

    def num_recovered(self, from_iteration: int) -> int:
        """Records of this run that `find` will give from that iteration on."""
        return sum(key.iteration >= from_iteration and entry.run == self._run for key, entry in self._index.items())

    async def record(self, record: SegmentRecord) -> None:
        """Durable when it returns.

        Raises:
            ReplayError: it could not be written.
        """
        self._batch.append(record)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        # Shielded: who waits may be cancelled, the others of the batch must not be.
        await asyncio.shield(self._flushing)

    async def start_iteration(self, iteration: int) -> None:
        """From now on records go to this iteration's file."""
        async with self._disk:
            if iteration != self._iteration:
                self.close()
                self._iteration = iteration

    def discard_before(self, iteration: int) -> None:
        """Remove the files of earlier iterations, and forget their records."""
        gone = {path for number, path in log_files(self.directory).items() if number < min(iteration, self._iteration)}
        for path in gone:
            path.unlink()
        self._index = {key: entry for key, entry in self._index.items() if entry.place.path not in gone}

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _flush(self) -> None:
        async with self._disk:
            batch, self._batch, self._flushing = self._batch, [], None
            if self._writer is None:
                self._writer = RecordWriter(self.directory / f"iteration_{self._iteration:07d}.log")
            payloads = [to_bytes(record, run=self._run) for record in batch]
            places = await asyncio.to_thread(self._writer.append, payloads)
            for record, place in zip(batch, places, strict=True):
                self._index[record.key] = Entry(place, self._run)
