"""Whole tensors from every layout are the model's own safetensors, bit by bit, in the table's order."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import weight_rules
from tests.launch import ROOT, run_ranks
from tests.models.tiny_models import build

NUM_RANKS = 4
LAYOUTS = [
    # TP x PP x DP. 259 token ids are padded to 384: at TP 4 the ranks hold 96, 96, 67 and none of them.
    {"name": "4x1x1", "model": "tied", "parallel": {"tensor_parallel_size": 4}},
    {"name": "2x1x2", "model": "biased", "parallel": {"tensor_parallel_size": 2}},
    {"name": "1x2x2", "model": "tied", "parallel": {"pipeline_parallel_size": 2}},
    {
        "name": "2x2x1-interleaved",
        "model": "biased",
        "parallel": {
            "tensor_parallel_size": 2,
            "pipeline_parallel_size": 2,
            "virtual_pipeline_parallel_size": 2,
            "sequence_parallel": True,
        },
    },
    {"name": "1x1x4", "model": "tied", "parallel": {}},
]


@pytest.fixture(scope="module")
def gathered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gathered")
    sizes = {"vocab_size": 259, "num_layers": 4, "num_kv_heads": 4}
    build(directory / "tied", "qwen3", tied=True, **sizes)
    build(directory / "biased", "qwen2", tied=False, **sizes)
    script = ROOT / "tests/transfer/gather_ranks.py"
    run_ranks(script, NUM_RANKS, str(directory), str(directory), json.dumps(LAYOUTS))
    return directory


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout["name"])
def test_every_sending_rank_gets_the_original_tensors(gathered: Path, layout: dict) -> None:
    model_dir = gathered / layout["model"]
    original = load_file(model_dir / "model.safetensors")
    order = [rule.hf_name for rule in weight_rules(Architecture.from_hf(model_dir))]
    assert sorted(order) == sorted(original)
    for rank in range(NUM_RANKS):
        results = torch.load(gathered / f"{layout['name']}.{rank}.pt")
        for kind, dtype in (("first", torch.float32), ("all", torch.bfloat16)):
            found, most_alive = results[kind]
            if kind == "first" and rank:
                assert not found, f"rank {rank} sends nothing"
                continue
            assert list(found) == order, f"{kind}, rank {rank}"
            for name, tensor in found.items():
                assert tensor.dtype == dtype
                assert torch.equal(tensor, original[name].to(dtype)), f"{kind}, rank {rank}: {name}"
            # The one in hand, and the one before while gloo still holds it: memory stays bounded.
            assert most_alive <= 2, f"{kind}, rank {rank}"
