"""Averaging two Hugging Face models with tools/merge_checkpoints.py, as a command, against moving the same bytes.

Prints one JSON line. Baseline, measured in the same rounds: a process that reads both files and writes one, synced like
the tool's. `seconds` are medians over whole commands; `peak_mib` is the largest resident memory of either.
`python benchmarks/merge.py [--model DIR] [--dtype fp32|bf16] [--repeats N]`
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from model_copy import copy_model
from rounds import machine

from megatron_k15.models.package_model import resolve_model
from megatron_k15.models.weight_files import SINGLE_FILE

TOOL = Path(__file__).resolve().parents[1] / "tools" / "merge_checkpoints.py"

STREAM = """
import os, sys
*sources, target = sys.argv[1:]
piece = memoryview(bytearray(2**20))
files = [open(source, "rb", buffering=0) for source in sources]
with open(target, "wb", buffering=0) as output:
    while all([file.readinto(piece) for file in files]):
        output.write(piece)
    os.fsync(output)
"""

WATCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="package:smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--work", type=Path, help="folder on the disk to measure; default: the temporary folder")
    arguments = parser.parse_args()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        models = [copy_model(resolve_model(arguments.model), work / side, dtype) for side in ("a", "b")]
        print(json.dumps({"dtype": arguments.dtype, **_measure(models, work, arguments.repeats), "machine": machine()}))


def _measure(models: list[Path], work: Path, repeats: int) -> dict[str, object]:
    files = [str(model / SINGLE_FILE) for model in models]
    commands = {
        "merge": [str(TOOL), "--models", *map(str, models), "--output", str(work / "merged")],
        "stream": ["-c", STREAM, *files, str(work / "stream")],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for counted in [False] + [True] * repeats:
        for name, command in commands.items():
            os.sync()
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            if counted:
                seconds[name].append(time.perf_counter() - start)
            subprocess.run(["rm", "-rf", command[-1]], check=True)
    ratios = [merge / stream for merge, stream in zip(seconds["merge"], seconds["stream"], strict=True)]
    return {
        "mbytes_per_model": round(Path(files[0]).stat().st_size / 1e6),
        "seconds": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "ratio": round(statistics.median(ratios), 3),
        "peak_mib": {name: _peak_mib(command) for name, command in commands.items()},
    }


def _peak_mib(command: list[str]) -> float:
    """Of one more run, started by a small process: a program begins with the memory of the one that starts it."""
    found = subprocess.run(
        [sys.executable, "-c", WATCH, sys.executable, *command], check=True, capture_output=True, text=True
    )
    subprocess.run(["rm", "-rf", command[-1]], check=True)
    return round(int(found.stdout.split()[-1]) / 1024, 1)


if __name__ == "__main__":
    main()
