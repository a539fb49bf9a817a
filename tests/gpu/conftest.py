"""Tests that need a GPU: `python -m pytest tests/gpu` on a machine with one, after `make kernels` there."""

import pytest
import torch

from megatron_k15.kernels import native
from megatron_k15.kernels.build import build


@pytest.fixture(scope="session", autouse=True)
def _gpu_and_kernels() -> None:
    """Skips, with the reason, where there is no GPU; fails where there is one but the kernels are not built for it."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU with a CUDA build of torch; here the CUDA sources run emulated (tests/kernels)")
    build()
    library = native.library()
    assert library is not None
    assert library.with_cuda, "the kernels were built without CUDA: nvcc is missing"
