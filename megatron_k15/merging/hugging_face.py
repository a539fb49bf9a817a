"""Hugging Face directories → their average, as streams: memory does not depend on the models' size. No torch.

The result has the first model's files, tensor for tensor in the same places.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np

from megatron_k15.checkpoint.companions import copy_companions
from megatron_k15.checkpoint.new_directory import new_directory
from megatron_k15.errors import ModelError
from megatron_k15.merging.average import average_into, normalized
from megatron_k15.merging.fit import Places, open_all
from megatron_k15.models.weight_files import INDEX_FILE, StoredPlace

PIECE_BYTES = 2**20
"""Of each model at a time and thread: pieces stay in the processor's cache."""
NUM_THREADS = 2

Piece = tuple[StoredPlace, int, int, Sequence[StoredPlace]]
"""The first model's tensor, first byte in it, number of bytes, and the same tensor in every model."""


def merge_hugging_face(directories: Sequence[Path], weights: Sequence[float], target: Path) -> None:
    """
    Raises:
        ModelError: a model is damaged, or they do not fit together; nothing is written.
        CheckpointError: `target` exists or could not be written.
    """
    models = open_all(directories)
    with new_directory(target) as staging:
        copy_companions(directories[0], staging)
        index = directories[0] / INDEX_FILE
        paths = sorted({place.path for place in models[0].values()})
        if len(paths) > 1 or paths[0].name != "model.safetensors":
            (staging / INDEX_FILE).write_bytes(index.read_bytes())
        for path in paths:
            _merge_file(path, models, normalized(weights), staging / path.name)


def _merge_file(path: Path, models: Sequence[Places], weights: Sequence[float], target: Path) -> None:
    """One of the first model's files: its header as it is, its tensors averaged."""
    names = [name for name, place in models[0].items() if place.path == path]
    first_byte = min(models[0][name].start for name in names)
    descriptors: dict[Path, int] = {}
    try:
        for source in {model[name].path for model in models for name in names}:
            descriptors[source] = os.open(source, os.O_RDONLY)
        with target.open("wb") as output:
            output.write(os.pread(descriptors[path], first_byte, 0))
            output.flush()
            pieces, turn = _pieces(names, models), Lock()
            with ThreadPoolExecutor(NUM_THREADS) as threads:
                jobs = [
                    threads.submit(_work, pieces, turn, descriptors, weights, output.fileno())
                    for _ in range(NUM_THREADS)
                ]
                for job in jobs:
                    job.result()
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _pieces(names: Sequence[str], models: Sequence[Places]) -> Iterator[Piece]:
    for name in sorted(names, key=lambda name: models[0][name].start):
        place = models[0][name]
        for offset in range(0, place.num_bytes, PIECE_BYTES):
            yield place, offset, min(PIECE_BYTES, place.num_bytes - offset), [model[name] for model in models]


def _work(
    pieces: Iterator[Piece], turn: Lock, descriptors: dict[Path, int], weights: Sequence[float], output: int
) -> None:
    """Take pieces until there are none. File reads and NumPy's loops run beside other threads.

    Args:
        turn: for `pieces`, which gives one at a time: a list of them all would grow with the model.
    """
    buffers = [np.empty(PIECE_BYTES, dtype=np.uint8) for _ in weights]
    while True:
        with turn:
            piece = next(pieces, None)
        if piece is None:
            return
        place, offset, num_bytes, same = piece
        sources = [buffer[:num_bytes] for buffer in buffers]
        for source, own in zip(sources, same, strict=True):
            _read(descriptors[own.path], own, offset, source)
        average_into(sources, weights, place.dtype, sources[0])
        _write(output, sources[0].data, place.start + offset)


def _read(descriptor: int, place: StoredPlace, offset: int, target: np.ndarray) -> None:
    done = 0
    while done < len(target):
        read = os.preadv(descriptor, [target.data[done:]], place.start + offset + done)
        if not read:
            raise ModelError(f"{place.path} became shorter while it was read")
        done += read


def _write(descriptor: int, data: memoryview, start: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, start)
        data, start = data[written:], start + written
