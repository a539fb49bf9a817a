"""The policy computes what transformers computes from the same directory, for every family and option of it."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_k15.config import ParallelConfig
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.hf_files import HfWeights
from megatron_k15.models.loading import load_hf_weights
from megatron_k15.models.packed_tokens import PackedTokens, Piece
from megatron_k15.models.policy import build_policy
from megatron_k15.parallel.context import initialize
from tests.models.tiny_models import LINEAR_SCALING, LLAMA3_SCALING, build

VARIANTS = {
    "llama, odd vocabulary": {"family": "llama", "vocab_size": 251},
    "llama, tied, llama-3 rope": {"family": "llama", "tied": True, "rope_scaling": LLAMA3_SCALING},
    "llama, linear rope": {"family": "llama", "rope_scaling": LINEAR_SCALING},
    "mistral, other head size": {"family": "mistral", "num_kv_heads": 4, "head_dim": 24},
    "qwen2, qkv bias": {"family": "qwen2"},
    "qwen3, qk norm, tied": {"family": "qwen3", "head_dim": 24, "tied": True},
}
SEQUENCES = [[5, 9, 200, 31, 7] * 12, [17, 18, 19], [40] * 25]
"""The first is longer than the original context of LLAMA3_SCALING, so that every band of it is used."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_transformers(tmp_path: Path, variant: str) -> None:
    directory = build(tmp_path / "model", **VARIANTS[variant])
    expected = _transformers_logits(directory)
    found = _our_logits(directory)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        # Logits differ by about 1 between tokens; 1e-4 is rounding of fp32 sums.
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)
    assert max(float(logits.std()) for logits in expected) > 0.3, "the logits must differ for the test to see anything"


@torch.no_grad()
def _our_logits(directory: Path) -> list[torch.Tensor]:
    """[tokens, vocabulary] of each sequence, all in one pack."""
    architecture = Architecture.from_hf(directory)
    with initialize(ParallelConfig(), seed=0) as context:
        (policy,) = build_policy(architecture, context, dtype="fp32")
        load_hf_weights([policy], HfWeights.open(directory, architecture), architecture, context)
        hidden = policy(PackedTokens.pack([Piece(tokens) for tokens in SEQUENCES]))
        logits = policy.head_input(hidden) @ policy.head_weight().T
    return list(logits.split([len(tokens) for tokens in SEQUENCES]))


@torch.no_grad()
def _transformers_logits(directory: Path) -> list[torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    return [model(torch.tensor([tokens])).logits[0] for tokens in SEQUENCES]
