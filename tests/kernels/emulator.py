"""The very .cu files under g++: fibers for threads (csrc/emulation). Built once per state of the sources, in `.cache`.

`Emulator` takes the arguments of the operators `torch.ops.k15.*` and gives their results, so that one test can compare
compiled, emulated and plain PyTorch.
"""

import ctypes
import hashlib
from collections.abc import Callable
from ctypes import POINTER, Structure, c_bool, c_char_p, c_double, c_int, c_int64, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_k15.kernels.build import CUDA_SOURCES, INCLUDES, SOURCES, run_compiler

FLAGS = ("-std=c++17", "-O2", "-fPIC", "-DK15_EMULATION", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror")
EMULATED = (*CUDA_SOURCES, "emulation/wrong_examples.cu", "emulation/fibers.cpp", "emulation/entry.cpp")
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""k15::Dtype of calls.h."""


class StatisticsCall(Structure):
    _fields_ = (
        ("dtype", c_int),
        ("logits", c_void_p),
        ("num_rows", c_int64),
        ("width", c_int64),
        ("row_stride", c_int64),
        ("targets", c_void_p),
        ("scale", c_double),
        ("highest", c_void_p),
        ("sums", c_void_p),
        ("target_logits", c_void_p),
        ("weighted", c_void_p),
    )


class GradientCall(Structure):
    _fields_ = (
        ("dtype", c_int),
        ("logits", c_void_p),
        ("gradient", c_void_p),
        ("num_rows", c_int64),
        ("width", c_int64),
        ("row_stride", c_int64),
        ("gradient_stride", c_int64),
        ("targets", c_void_p),
        ("scale", c_double),
        ("highest", c_void_p),
        ("sums", c_void_p),
        ("coefficients", c_void_p),
    )


class SequenceSumsCall(Structure):
    _fields_ = (
        ("dtype", c_int),
        ("logprobs", c_void_p),
        ("reference", c_void_p),
        ("mask", c_void_p),
        ("bounds", c_void_p),
        ("num_sequences", c_int64),
        ("sums", c_void_p),
    )


class PolicyTermsCall(Structure):
    _fields_ = (
        ("dtype", c_int),
        ("logprobs", c_void_p),
        ("behaviour", c_void_p),
        ("mask", c_void_p),
        ("bounds", c_void_p),
        ("num_sequences", c_int64),
        ("sums", c_void_p),
        ("advantages", c_void_p),
        ("weights", c_void_p),
        ("tau", c_double),
        ("importance_clip", c_double),
        ("losses", c_void_p),
        ("coefficients", c_void_p),
        ("ratios", c_void_p),
    )


class GroupCall(Structure):
    _fields_ = (
        ("dtype", c_int),
        ("rewards", c_void_p),
        ("correct", c_void_p),
        ("lengths", c_void_p),
        ("offsets", c_void_p),
        ("num_groups", c_int64),
        ("length_weight", c_double),
        ("baseline", c_int),
        ("tau", c_double),
        ("length_rewards", c_void_p),
        ("baselines", c_void_p),
        ("advantages", c_void_p),
    )


class EmulationError(Exception):
    """A kernel did what a GPU would not allow."""


def build_emulation() -> Path:
    """The shared library of the emulated kernels."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file():
            digest.update(path.read_bytes())
    target = SOURCES.parent / ".cache" / "emulation" / f"{digest.hexdigest()[:16]}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        sources = [str(SOURCES / name) for name in EMULATED]
        partial = target.with_suffix(".part")
        run_compiler(["g++", *FLAGS, *INCLUDES, "-shared", "-x", "c++", *sources, "-o", str(partial)])
        partial.rename(target)
    return target


class Emulator:
    """With `seed` 0 threads run in order; any other seed is one chance order."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(build_emulation()))
        self._library.k15_error.restype = c_char_p
        self._library.k15_set_seed.argtypes = (c_uint64,)
        self._library.k15_take_counts.argtypes = (POINTER(c_int64), POINTER(c_int64))
        self._library.k15_example_sum.argtypes = (c_void_p, c_void_p, c_bool)
        self.seed = 0

    def take_counts(self) -> tuple[int, int]:
        """Bytes of global memory loaded and stored since the last call."""
        loaded, stored = c_int64(), c_int64()
        self._library.k15_take_counts(ctypes.byref(loaded), ctypes.byref(stored))
        return loaded.value, stored.value

    def softmax_statistics(self, logits: Tensor, targets: Tensor, scale: float, entropy: bool) -> Tensor:
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        found = torch.full((4 if entropy else 3, len(logits)), torch.nan, dtype=dtype)
        rows = [row.data_ptr() for row in found]
        call = StatisticsCall(
            *(DTYPES[logits.dtype], logits.data_ptr(), *logits.shape, logits.stride(0), targets.data_ptr(), scale),
            *(*rows[:3], rows[3] if entropy else None),
        )
        self._run(self._library.k15_softmax_statistics, call)
        return found

    def logit_gradient(self, logits: Tensor, *rest: Any) -> Tensor:
        gradient = torch.full(logits.shape, torch.nan, dtype=logits.dtype)
        self.gradient_into(gradient, logits, *rest)
        return gradient

    def logit_gradient_(self, logits: Tensor, *rest: Any) -> None:
        self.gradient_into(logits, logits, *rest)

    def gradient_into(
        self,
        gradient: Tensor,
        logits: Tensor,
        targets: Tensor,
        scale: float,
        highest: Tensor,
        sums: Tensor,
        coefficients: Tensor,
    ) -> None:
        call = GradientCall(
            *(DTYPES[logits.dtype], logits.data_ptr(), gradient.data_ptr(), *logits.shape),
            *(logits.stride(0), gradient.stride(0), targets.data_ptr(), scale),
            *(highest.data_ptr(), sums.data_ptr(), coefficients.data_ptr()),
        )
        self._run(self._library.k15_logit_gradient, call)

    def sequence_sums(self, logprobs: Tensor, reference: Tensor, mask: Tensor, bounds: Tensor) -> Tensor:
        sums = torch.full((len(bounds) - 1,), torch.nan, dtype=logprobs.dtype)
        pointers = (value.data_ptr() for value in (logprobs, reference, mask, bounds))
        call = SequenceSumsCall(DTYPES[logprobs.dtype], *pointers, len(sums), sums.data_ptr())
        self._run(self._library.k15_sequence_sums, call)
        return sums

    def policy_terms(
        self,
        logprobs: Tensor,
        behaviour: Tensor | None,
        mask: Tensor,
        bounds: Tensor,
        sums: Tensor,
        advantages: Tensor,
        weights: Tensor,
        tau: float,
        importance_clip: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        losses, coefficients = torch.full_like(sums, torch.nan), torch.zeros_like(logprobs)
        ratios = torch.ones_like(logprobs) if behaviour is not None else logprobs.new_empty(0)
        call = PolicyTermsCall(
            *(DTYPES[logprobs.dtype], logprobs.data_ptr(), None if behaviour is None else behaviour.data_ptr()),
            *(mask.data_ptr(), bounds.data_ptr(), len(sums)),
            *(sums.data_ptr(), advantages.data_ptr(), weights.data_ptr(), tau, importance_clip),
            *(losses.data_ptr(), coefficients.data_ptr(), ratios.data_ptr() or None),
        )
        self._run(self._library.k15_policy_terms, call)
        return losses, coefficients, ratios

    def group_rewards(
        self,
        rewards: Tensor,
        correct: Tensor,
        lengths: Tensor,
        offsets: Tensor,
        length_weight: float,
        baseline: str,
        tau: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        length_rewards, advantages = torch.full_like(rewards, torch.nan), torch.full_like(rewards, torch.nan)
        baselines = torch.full((len(offsets) - 1,), torch.nan, dtype=rewards.dtype)
        call = GroupCall(
            *(DTYPES[rewards.dtype], rewards.data_ptr(), correct.data_ptr(), lengths.data_ptr(), offsets.data_ptr()),
            *(len(baselines), length_weight, ("mean", "log_mean_exp").index(baseline), tau),
            *(length_rewards.data_ptr(), baselines.data_ptr(), advantages.data_ptr()),
        )
        self._run(self._library.k15_group_rewards, call)
        return length_rewards, baselines, advantages

    def example_sum(self, values: Tensor, *, with_barrier: bool) -> float:
        """64 numbers; without its barrier the kernel is racy."""
        total = torch.zeros(1)
        self._library.k15_set_seed(self.seed)
        self._library.k15_example_sum(values.data_ptr(), total.data_ptr(), with_barrier)
        return total.item()

    def example_skipped_barrier(self) -> None:
        self._check(self._library.k15_example_skipped_barrier())

    def example_pack(self, values: Tensor) -> None:
        """Loads and stores the first four of its numbers as one pack."""
        self._check(self._library.k15_example_pack(c_void_p(values.data_ptr())))

    def _run(self, entry: Callable[[Any], int], call: Structure) -> None:
        self._library.k15_set_seed(self.seed)
        self._check(entry(ctypes.byref(call)))

    def _check(self, status: int) -> None:
        if status:
            raise EmulationError(self._library.k15_error().decode())
