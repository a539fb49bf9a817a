"""The trainer's memory goes and comes back bit for bit, and is really gone meanwhile."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from megatron_k15.errors import OffloadError
from megatron_k15.offload.pages import memory_of
from megatron_k15.offload.stores import FileStore
from megatron_k15.offload.swap import Swap
from tests.launch import ROOT, run_ranks

MIB = 2**20


def _resident() -> int:
    return psutil.Process().memory_info().rss


def test_bytes_come_back_and_views_stay_views(tmp_path: Path) -> None:
    """A view, a NumPy view, a bf16 tensor, one smaller than a page, and two tensors over one storage."""
    whole = torch.randn(3 * MIB)
    half, array = whole[: MIB + 5], whole.numpy()
    others = [torch.randn(1000, 77).bfloat16(), torch.randn(3), torch.arange(5000)[::3], torch.empty(0)]
    expected = [tensor.clone() for tensor in (whole, *others)]
    swap = Swap(lambda: [half, whole, *others], lambda sizes: FileStore(sizes, tmp_path))
    for _ in range(3):
        num_bytes = swap.offload()
        assert not swap.is_resident
        assert num_bytes == sum(tensor.untyped_storage().nbytes() for tensor in (whole, *others))
        assert swap.onload() == num_bytes
        assert all(torch.equal(a, b) for a, b in zip((whole, *others), expected, strict=True))
    assert swap.onload() == 0
    half[0] = 7.0
    assert whole[0] == array[0] == 7.0
    swap.close()
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_resident_memory_falls_and_is_never_more_than_before(tmp_path: Path) -> None:
    tensors = [torch.ones(32 * MIB // 4) for _ in range(6)]
    swap = Swap(lambda: tensors, lambda sizes: FileStore(sizes, tmp_path))
    swap.offload()
    swap.onload()
    before, peak_before = _resident(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    swap.offload()
    assert before - _resident() > 0.95 * 6 * 32 * MIB
    swap.onload()
    assert _resident() - before < 8 * MIB
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before) * 1024 < 8 * MIB
    swap.close()


def test_memory_of_a_storage_is_its_own(tmp_path: Path) -> None:
    tensor = torch.zeros(4, dtype=torch.int32)
    memory_of(tensor.untyped_storage())[4] = 3
    assert tensor.tolist() == [0, 3, 0, 0]


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from megatron_k15.errors import OffloadError
from megatron_k15.offload.stores import FileStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    FileStore([1 << 20, 1 << 20], Path(sys.argv[1]))
except OffloadError as error:
    print(error)
"""


def test_too_little_room_is_one_clear_error_before_anything_moves(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, cwd=ROOT, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"offloading the trainer needs 2 MB in {tmp_path}" in done.stdout
    assert "set colocate.offload_dir" in done.stdout
    with pytest.raises(OffloadError):
        FileStore([1 << 60], tmp_path)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_trainer_goes_on_as_if_nothing_had_happened(dtype: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Two ranks, tensor parallel: an update, a swap, a publish, an update, against the same without the swap."""
    run_ranks(Path(__file__).with_name("swap_ranks.py"), 2, str(tiny_model_dir), str(tmp_path), dtype)
    for rank in range(2):
        result = json.loads((tmp_path / f"rank_{rank}.json").read_text())
        assert result["swapped"] == result["plain"]
        assert len(set(result["swapped"])) == len(result["swapped"]), "every step changes something"
        assert result["offloaded_bytes"] == result["onloaded_bytes"] > result["tensor_bytes"] / 2
