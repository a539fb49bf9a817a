"""Run by torchrun: gather a model's tensors under each layout of a JSON list; every rank writes what it was given.

gather_ranks.py MODELS OUT_DIR LAYOUTS
"""

import json
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_k15.config import ParallelConfig
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.hf_files import HfWeights
from megatron_k15.models.loading import load_hf_weights
from megatron_k15.models.policy import build_policy
from megatron_k15.parallel.context import initialize
from megatron_k15.transfer.gathered import full_tensors


def run(models: Path, out_dir: Path, layout: dict) -> None:
    """Writes, by "first" and "all": the tensors by name, and how many were alive at once at most."""
    model_dir = models / layout["model"]
    architecture = Architecture.from_hf(model_dir)
    with initialize(ParallelConfig(**layout["parallel"]), seed=0, timeout_seconds=60) as context:
        chunks = build_policy(architecture, context, dtype="fp32")
        load_hf_weights(chunks, HfWeights.open(model_dir, architecture), architecture, context)
        first = full_tensors(chunks, architecture, context, torch.float32)
        found = {"first": _collect(first)}
        found["all"] = _collect(full_tensors(chunks, architecture, context, torch.bfloat16, everywhere=True))
        torch.save(found, out_dir / f"{layout['name']}.{dist.get_rank()}.pt")
        dist.barrier()


def _collect(pairs: Iterator[tuple[str, torch.Tensor]]) -> tuple[dict[str, torch.Tensor], int]:
    found: dict[str, torch.Tensor] = {}
    alive: list[weakref.ref] = []
    most_alive = 0
    for name, tensor in pairs:
        assert name not in found, name
        assert tensor.is_contiguous(), name
        alive = [reference for reference in [*alive, weakref.ref(tensor)] if reference() is not None]
        most_alive = max(most_alive, len(alive))
        found[name] = tensor.clone()
        del tensor
    return found, most_alive


def main() -> None:
    models, out_dir, layouts = sys.argv[1:]
    torch.set_num_threads(1)
    # One process group for all layouts: `initialize` then builds only its own groups on it.
    dist.init_process_group("gloo")
    for layout in json.loads(layouts):
        run(Path(models), Path(out_dir), layout)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
