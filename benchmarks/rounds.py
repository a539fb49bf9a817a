"""Steps timed one after another, in rounds: what else the machine does meets all of them alike."""

import os
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from megatron_k15.master import Timer

Step = Callable[[Timer], None]
"""May time phases of its own, under names that no other step uses."""


def timed_rounds(steps: Mapping[str, Step], repeats: int) -> list[dict[str, float]]:
    """Seconds by step and phase, one dict per round.

    A first round warms up and is not counted. Every second round goes backwards, so that no step always follows the
    same other one.
    """
    records = []
    for index in range(repeats + 1):
        timer = Timer()
        for name, step in list(steps.items())[:: 1 if index % 2 == 0 else -1]:
            with timer.phase(name):
                step(timer)
        print(f"round {index} of {repeats}:", medians([timer.seconds]), file=sys.stderr, flush=True)
        records.append(timer.seconds)
    return records[1:]


def medians(records: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(record[name] for record in records), 4) for name in records[0]}


def ratio(records: list[dict[str, float]], over: str, under: str) -> float:
    """Median of the rounds' own ratios."""
    return round(statistics.median(record[over] / record[under] for record in records), 3)


def machine() -> dict[str, object]:
    """The load average is that of the last minute: 2 on 2 cores without anyone else's work."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
    }
