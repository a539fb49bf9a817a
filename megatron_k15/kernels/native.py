"""The compiled operators `torch.ops.k15.*`, or their reference where they are not compiled.

`reference.py` says what each computes. Nothing is compiled when a program runs: `make` (or
`python -m megatron_k15.kernels.build`) does that.
"""

import importlib.util
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from megatron_k15.kernels import reference
from megatron_k15.kernels.build import PACKAGE, SOURCES, library_path


@cache
def library() -> ModuleType | None:
    """The compiled library, loaded once; None, with one warning, where it was not built from the present sources."""
    found = [library_path()] if SOURCES.is_dir() else sorted(PACKAGE.glob("native-*.so"))
    if not found or not found[0].exists():
        warnings.warn(
            "the compiled kernels were not built from the present sources: the slower PyTorch reference is used. Build "
            "them with `python -m megatron_k15.kernels.build` (needs g++), or set train.kernels=reference",
            stacklevel=2,
        )
        return None
    spec = importlib.util.spec_from_file_location("_native", found[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _register_fakes()
    return module


def operators(tensor: Tensor) -> Any:
    """`torch.ops.k15` where it takes this tensor's device, else the reference: the same functions."""
    module = library()
    on_device = tensor.device.type == "cpu" or (module is not None and module.with_cuda)
    return torch.ops.k15 if module is not None and on_device else reference


def _register_fakes() -> None:
    """Shapes and dtypes alone, for torch.compile."""
    fake = torch.library.register_fake

    def statistics(logits: Tensor, targets: Tensor, scale: float, entropy: bool) -> Tensor:
        return logits.new_empty((4 if entropy else 3, logits.shape[0]), dtype=reference.computed_dtype(logits))

    def terms(logprobs: Tensor, behaviour: Tensor | None, mask: Tensor, bounds: Tensor, sums: Tensor, *rest: object):
        ratios = logprobs.new_empty(0) if behaviour is None else torch.empty_like(logprobs)
        return torch.empty_like(sums), torch.empty_like(logprobs), ratios

    def groups(rewards: Tensor, correct: Tensor, lengths: Tensor, offsets: Tensor, *rest: object):
        baselines = rewards.new_empty(offsets.shape[0] - 1)
        return torch.empty_like(rewards), baselines, torch.empty_like(rewards)

    fake("k15::softmax_statistics", statistics)
    fake("k15::logit_gradient", lambda logits, *rest: logits.new_empty(logits.shape))
    fake("k15::logit_gradient_", lambda logits, *rest: None)
    fake("k15::sequence_sums", lambda logprobs, reference, mask, bounds: logprobs.new_empty(bounds.shape[0] - 1))
    fake("k15::policy_terms", terms)
    fake("k15::group_rewards", groups)
