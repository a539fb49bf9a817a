"""Importing 135M parameters in fp32 (538 MB) into a Megatron directory, and back, against moving the bytes.

Prints one JSON line. `baseline`, measured in the same run between the conversions: read the safetensors file, write it,
sync it. `seconds` are medians; imports are not counted. `python benchmarks/convert.py [--repeats N] [--work DIR]`.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from model_copy import copy_model

from megatron_k15.checkpoint.conversion import hf_to_megatron, megatron_to_hf
from megatron_k15.models.package_model import resolve_model
from megatron_k15.models.weight_files import SINGLE_FILE

PIECE_BYTES = 16 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="package:smollm2-135m-instruct")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--work", type=Path, help="folder on the disk to measure; default: the temporary folder")
    arguments = parser.parse_args()
    # One thread: copies of a few megabytes gain nothing from a second one, and wait for it on a busy machine.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        source = copy_model(resolve_model(arguments.model), work / "hf", torch.float32)
        print(json.dumps(_measure(source, work, arguments.repeats)))


def _measure(source: Path, work: Path, repeats: int) -> dict[str, object]:
    steps: dict[str, Callable[[], None]] = {
        "read_and_write": lambda: _copy(source / SINGLE_FILE, work / "copy"),
        "hf_to_megatron": lambda: hf_to_megatron(source, work / "megatron"),
        "megatron_to_hf": lambda: megatron_to_hf(work / "megatron", work / "back"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    memory = dict.fromkeys(steps, 0)
    # The first round fills the page cache and is not counted.
    for counted in [False] + [True] * repeats:
        for name, step in steps.items():
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak below
            before, start = _peak_mib(), time.perf_counter()
            step()
            if counted:
                seconds[name].append(time.perf_counter() - start)
            memory[name] = max(memory[name], _peak_mib() - before)
        assert (work / "back" / SINGLE_FILE).stat().st_size == (source / SINGLE_FILE).stat().st_size
        (work / "copy").unlink()
        for folder in ("megatron", "back"):
            shutil.rmtree(work / folder)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "benchmark": "convert",
        "ratio": round(medians["hf_to_megatron"] / medians["read_and_write"], 3),
        "ratio_back": round(medians["megatron_to_hf"] / medians["read_and_write"], 3),
        "baseline": "read, write and sync the same bytes",
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "bytes": (source / SINGLE_FILE).stat().st_size,
        "resident_mib_over_imports": memory,
        "repeats": repeats,
    }


def _copy(source: Path, target: Path) -> None:
    piece = memoryview(bytearray(PIECE_BYTES))
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
        while count := read.readinto(piece):
            write.write(piece[:count])
        os.fsync(write.fileno())


def _peak_mib() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
