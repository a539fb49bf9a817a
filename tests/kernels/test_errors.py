"""What is wrong with an input is named, and nothing is computed from it."""

import warnings
from collections.abc import Callable

import pytest
import torch

from megatron_k15.kernels import native
from megatron_k15.kernels.groups import group_rewards
from tests.kernels.draws import logits, sequences, targets

X = logits(3, 5, torch.float32, seed=0)
COLUMNS = targets(3, 5, seed=0)
ONES = torch.ones(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: k.softmax_statistics(X[0], COLUMNS, 1.0, False), r"logits must have shape \[tokens, vocabulary\]"),
        (lambda k: k.softmax_statistics(X.t(), targets(5, 3, seed=0), 1.0, False), "logits must have unit stride"),
        (lambda k: k.softmax_statistics(X.long(), COLUMNS, 1.0, False), "logits must be float32, float64, bfloat16 or"),
        (lambda k: k.softmax_statistics(X, COLUMNS.int(), 1.0, False), "targets must be Long, got Int"),
        (lambda k: k.softmax_statistics(X, COLUMNS[:2], 1.0, False), r"targets must have shape \[3\], got \[2\]"),
        (lambda k: k.logit_gradient(X, COLUMNS, 1.0, ONES, ONES, ONES.double()), "coefficients must be Float"),
        (lambda k: k.logit_gradient(X, COLUMNS, 1.0, ONES, torch.ones(6)[::2], ONES), "sums must be contiguous"),
        (
            lambda k: k.sequence_sums(ONES, ONES, ONES > 0, torch.tensor([0, 2])),
            "bounds must go from 0 to 3, got 0 to 2",
        ),
        (lambda k: k.sequence_sums(ONES, ONES, ONES > 0, torch.tensor([0, 2, 1, 3])), "bounds must not fall, got 2"),
        (lambda k: k.sequence_sums(ONES, ONES, ONES, torch.tensor([0, 3])), "mask must be Bool, got Float"),
        (
            lambda k: k.sequence_sums(ONES.bfloat16(), ONES, ONES > 0, torch.tensor([0, 3])),
            "logprobs must be float32 or",
        ),
    ],
)
def test_operators_name_what_is_wrong(call: Callable[..., object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call(native.operators(X) and torch.ops.k15)


def test_group_rewards_name_what_is_wrong() -> None:
    lengths = torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match="baseline must be mean or log_mean_exp, got median"):
        group_rewards(ONES, ONES > 0, lengths, torch.tensor([0, 3]), baseline="median")
    with pytest.raises(ValueError, match="tau must be above 0 for the log_mean_exp baseline, got 0"):
        group_rewards(ONES, ONES > 0, lengths, torch.tensor([0, 3]), baseline="log_mean_exp", tau=0.0)


def test_without_a_compiler_the_reference_takes_over_with_one_warning(monkeypatch, tmp_path) -> None:
    from megatron_k15.kernels.policy_loss import policy_loss

    columns, parts = targets(12, 9, seed=0), sequences([0, 12], seed=0)
    x = logits(12, 9, torch.float32, seed=0)
    compiled = policy_loss(x, columns, parts, tau=0.1)
    native.library.cache_clear()
    monkeypatch.setattr(native, "library_path", lambda: tmp_path / "native-0.so")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            plain = policy_loss(x, columns, parts, tau=0.1)
            policy_loss(x, columns, parts, tau=0.1)
        (warning,) = caught
        assert "python -m megatron_k15.kernels.build" in str(warning.message)
        torch.testing.assert_close(plain.loss, compiled.loss)
    finally:
        monkeypatch.undo()
        native.library.cache_clear()


def test_a_missing_compiler_is_one_line_and_no_failure(monkeypatch, tmp_path, capsys) -> None:
    from megatron_k15.kernels import build

    monkeypatch.setattr(build, "PACKAGE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.main() == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("[kernels] not built, the PyTorch reference will be used: g++ is missing: install it")
