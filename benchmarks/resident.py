"""Resident memory of this process, as the kernel counts it."""

import gc
from collections.abc import Callable
from pathlib import Path

from megatron_k15.offload.pages import release_freed_memory


def peak_growth_bytes(step: Callable[[], object]) -> int:
    """By how much resident memory rises above its present size while `step` runs."""
    gc.collect()
    release_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from the present size
    before = _status_bytes("VmRSS")
    step()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024
