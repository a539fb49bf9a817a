"""Joining and leaving a run."""

import os

from megatron_k15.config import ParallelConfig
from megatron_k15.parallel.context import initialize


def test_a_run_of_one_rank_leaves_the_environment_as_it_was() -> None:
    """Programs that are started afterwards would take its variables for torchrun's, and its port for theirs."""
    before = dict(os.environ)
    with initialize(ParallelConfig(), seed=0):
        assert os.environ["WORLD_SIZE"] == "1"
    assert dict(os.environ) == before
