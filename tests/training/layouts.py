"""The layouts that must all compute the same, run on ranks and put together."""

import json
from pathlib import Path

import torch

from tests.launch import ROOT, run_ranks

TAU = 0.1
SGD = {"optimizer": "sgd", "max_tokens_per_micro_batch": 40, "tau": TAU}
ADAM = {"optimizer": "adam", "max_tokens_per_micro_batch": 40, "tau": TAU}


def _layout(name: str, tensor: int, pipeline: int, train: dict, **more: object) -> dict:
    return {
        "name": name,
        "tensor_parallel_size": tensor,
        "pipeline_parallel_size": pipeline,
        "use_distributed_optimizer": train["optimizer"] == "adam",
        "train": train,
        **more,
    }


LAYOUTS = {
    1: [_layout("1x1x1", 1, 1, SGD), _layout("1x1x1-adam", 1, 1, ADAM), _layout("1x1x1-two-steps", 1, 1, SGD, steps=2)],
    2: [
        _layout("2x1x1", 2, 1, SGD),
        _layout("1x2x1", 1, 2, SGD),
        _layout("1x1x2", 1, 1, SGD),
        _layout("2x1x1-sequence-parallel", 2, 1, SGD, sequence_parallel=True),
        _layout("1x2x1-interleaved", 1, 2, SGD, virtual_pipeline_parallel_size=2),
        _layout("1x2x1-recompute", 1, 2, {**SGD, "recompute": True}),
        _layout("1x1x2-adam", 1, 1, ADAM),
        _layout("1x2x1-two-steps", 1, 2, SGD, steps=2),
    ],
    4: [
        _layout("2x2x1", 2, 2, SGD, sequence_parallel=True),
        _layout("2x1x2", 2, 1, SGD),
        _layout("1x2x2", 1, 2, SGD),
        _layout("2x2x1-interleaved-adam", 2, 2, ADAM, sequence_parallel=True, virtual_pipeline_parallel_size=2),
    ],
}
"""Number of ranks → layouts, named tensor x pipeline x data."""


def run_layouts(model_dir: Path, out_dir: Path, *, num_ranks: tuple[int, ...] = tuple(LAYOUTS)) -> dict[str, dict]:
    """Layout name → what one update gave under it: logprobs before and after, gradients, weights, published weights."""
    for count in num_ranks:
        script = ROOT / "tests/training/layout_ranks.py"
        run_ranks(script, count, str(model_dir), str(out_dir), json.dumps(LAYOUTS[count]))
    return {layout["name"]: merge(out_dir, layout["name"]) for count in num_ranks for layout in LAYOUTS[count]}


def merge(directory: Path, name: str) -> dict:
    """The ranks' slices put together; where several ranks hold the same slice, they must agree exactly."""
    ranks = [torch.load(path, weights_only=True) for path in sorted(directory.glob(f"{name}.*.pt"))]
    merged = dict(ranks[0])
    for kind in ("weights", "gradients"):
        pieces: dict[str, dict[int, torch.Tensor]] = {}
        dims = {}
        for rank in ranks:
            for hf_name, dim, start, piece in rank[kind]:
                other = pieces.setdefault(hf_name, {}).setdefault(start, piece)
                dims[hf_name] = dim
                if kind == "weights":
                    assert torch.equal(piece, other), f"{name}: ranks disagree on {hf_name}"
        merged[kind] = {
            hf_name: torch.cat([parts[start] for start in sorted(parts)], dim=dims[hf_name])
            for hf_name, parts in pieces.items()
        }
    return merged
