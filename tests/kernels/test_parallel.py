"""The vocabulary, or the tokens of each sequence, split over 2 and 4 ranks on gloo: as in one process, to rounding."""

import pytest

from tests.launch import ROOT, run_ranks


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_split_over_ranks(num_ranks: int) -> None:
    run_ranks(ROOT / "tests/kernels/parallel_ranks.py", num_ranks)
