"""Packs hold what they should, and a shared prompt changes no logprob."""

from pathlib import Path

import pytest
import torch

from megatron_k15.config import ParallelConfig, TrainConfig
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.hf_files import HfWeights
from megatron_k15.models.loading import load_hf_weights
from megatron_k15.models.packed_tokens import PackedTokens, Piece
from megatron_k15.models.policy import build_policy
from megatron_k15.parallel.context import initialize
from megatron_k15.training.micro_batch import MicroBatch
from megatron_k15.training.packing import Family, assign, families
from megatron_k15.training.policy_trainer import PolicyTrainer
from megatron_k15.types import TrainingSequence
from tests.models.tiny_models import build


def _sequence(prompt: tuple[int, ...], response: tuple[int, ...]) -> TrainingSequence:
    return TrainingSequence(
        token_ids=prompt + response,
        loss_mask=(False,) * len(prompt) + (True,) * len(response),
        behaviour_logprobs=(0.0,) * (len(prompt) + len(response)),
    )


SEQUENCES = [
    _sequence((5, 6, 7, 8), (9, 10, 11)),
    _sequence((5, 6, 7, 8), (12,)),
    _sequence((20, 21), (22, 23, 24, 25)),
    _sequence((5, 6, 7, 8), (13, 14)),
]


def test_a_shared_prompt_stands_in_the_pack_once() -> None:
    batch = MicroBatch.pack(SEQUENCES, [0, 1, 2, 3], share_prompts=True)
    assert batch.tokens.token_ids_T.tolist() == [5, 6, 7, 8, 9, 10, 11, 12, 20, 21, 22, 23, 24, 25, 13, 14]
    assert batch.tokens.positions_T.tolist() == [0, 1, 2, 3, 4, 5, 6, 4, 0, 1, 2, 3, 4, 5, 4, 5]
    # The prompt's last token predicts the first token of each of its responses.
    assert batch.rows_N.tolist() == [3, 4, 5, 3, 9, 10, 11, 12, 3, 14]
    assert batch.targets_N.tolist() == [9, 10, 11, 12, 22, 23, 24, 25, 13, 14]
    assert batch.sequence_N.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3]


def test_every_token_gets_its_output_from_one_cell() -> None:
    tokens = PackedTokens.pack([Piece((1, 2)), Piece((3,), continues=0), Piece((4, 5), continues=0), Piece((6,) * 9)])
    cells = torch.cat([bucket.scatter for bucket in tokens.sequences.buckets])
    assert sorted(cells.tolist()) == list(range(tokens.num_tokens))


def test_sharing_changes_no_logprob(tmp_path: Path) -> None:
    model = build(tmp_path / "model", "llama", vocab_size=300)
    architecture = Architecture.from_hf(model)
    found = []
    for share in (True, False):
        with initialize(ParallelConfig(), seed=0) as context:
            chunks = build_policy(architecture, context, dtype="fp32")
            load_hf_weights(chunks, HfWeights.open(model, architecture), architecture, context)
            config = TrainConfig(share_prompts=share)
            trainer = PolicyTrainer(config, context, architecture, chunks, dtype="fp32", num_iterations=1)
            found.append(trainer.logprobs(SEQUENCES))
    for shared, alone in zip(*found, strict=True):
        assert shared == pytest.approx(alone, abs=1e-5)


def test_families_are_cut_where_they_do_not_fit() -> None:
    whole = families(SEQUENCES, share_prompts=True, max_tokens=100, hidden_size=8)
    assert [(family.members, family.num_tokens) for family in whole] == [((0, 1, 3), 10), ((2,), 6)]
    cut = families(SEQUENCES, share_prompts=True, max_tokens=8, hidden_size=8)
    assert [(family.members, family.num_tokens) for family in cut] == [((0, 1), 8), ((3,), 6), ((2,), 6)]


def test_ranks_get_equally_many_micro_batches_of_even_cost() -> None:
    units = [
        Family(members=(index,), num_tokens=size, cost=size) for index, size in enumerate([50, 9, 30, 8, 7, 22, 31])
    ]
    ranks = assign(units, data_size=2, max_tokens=50, multiple=2)
    assert [len(micro_batches) for micro_batches in ranks] == [2, 2]
    assert sorted(family.members[0] for rank in ranks for batch in rank for family in batch) == list(range(7))
    loads = [sum(family.num_tokens for batch in rank for family in batch) for rank in ranks]
    assert abs(loads[0] - loads[1]) <= 0.25 * sum(loads)
    assert all(sum(family.num_tokens for family in batch) <= 50 for rank in ranks for batch in rank)


def test_a_sequence_longer_than_a_micro_batch_gets_one_of_its_own() -> None:
    units = [Family(members=(0,), num_tokens=500, cost=500), Family(members=(1,), num_tokens=5, cost=5)]
    (rank,) = assign(units, data_size=1, max_tokens=50)
    assert sorted([family.members for family in batch] for batch in rank) == [[(0,)], [(1,)]]
