"""CUDA + nccl, or CPU + gloo: chosen once, here."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Platform:
    name: Literal["cuda", "cpu"]
    device: torch.device
    backend: Literal["nccl", "gloo"]


def choose_platform(local_rank: int) -> Platform:
    """The GPU of this rank where there is one, else the CPU."""
    if torch.cuda.is_available():
        return Platform(name="cuda", device=torch.device("cuda", local_rank), backend="nccl")
    return Platform(name="cpu", device=torch.device("cpu"), backend="gloo")


@cache
def _cpu_has_bf16() -> bool:
    """True where matrix products in bf16 have instructions of their own; elsewhere they are several times slower."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def resolve_dtype(name: str) -> str:
    """`auto` → `bf16` on CUDA and on CPUs with bf16 instructions, else `fp32`; other names stay."""
    if name != "auto":
        return name
    return "bf16" if torch.cuda.is_available() or _cpu_has_bf16() else "fp32"
