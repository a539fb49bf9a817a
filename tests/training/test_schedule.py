"""The two-phase schedule of §2.5.2, at its corners."""

import math

import pytest

from megatron_k15.config import PhaseConfig, SftConfig, load_config_of
from megatron_k15.errors import ConfigError
from megatron_k15.training.schedule import last_rate, learning_rate


def test_the_reports_two_phases() -> None:
    """2e-5 → 2e-6 over the first epoch, then from there up to 1e-5 and down to 1e-6."""
    first, second = SftConfig().phases
    assert (first.sequence_tokens, second.sequence_tokens) == (32768, 131072)
    rates = [learning_rate(first, step, 100) for step in range(100)]
    assert rates[0] == 2e-5
    assert rates[-1] == pytest.approx(2e-6)
    assert rates == sorted(rates, reverse=True)
    again = [learning_rate(second, step, 200, before=rates[-1]) for step in range(200)]
    assert rates[-1] < again[0] < again[49] < again[50] == 1e-5
    assert again[-1] == pytest.approx(1e-6)
    assert last_rate(second, 200, before=rates[-1]) == again[-1]


def test_each_decay_is_its_formula() -> None:
    def rate(decay: str, step: int) -> float:
        return learning_rate(PhaseConfig(learning_rate=3.0, min_learning_rate=1.0, decay=decay), step, 5)

    assert [rate("linear", step) for step in range(5)] == [3.0, 2.5, 2.0, 1.5, 1.0]
    assert rate("cosine", 1) == pytest.approx(2 + math.cos(math.pi / 4))
    assert [rate("constant", step) for step in range(5)] == [3.0] * 5


def test_a_phase_of_one_step_or_of_warm_up_alone_has_a_rate() -> None:
    assert learning_rate(PhaseConfig(learning_rate=3.0, min_learning_rate=1.0), 0, 1) == 3.0
    warm = PhaseConfig(learning_rate=3.0, min_learning_rate=0.0, warmup_steps=2)
    assert [learning_rate(warm, step, 2) for step in range(2)] == [1.0, 2.0]


def test_phases_are_read_and_checked(tmp_path) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text("phases:\n  - {sequence_tokens: 64, learning_rate: 1e-3}\n  - {num_epochs: 2}\n")
    first, second = load_config_of(SftConfig, file).phases
    assert (first.sequence_tokens, first.learning_rate, second.num_epochs) == (64, 1e-3, 2)
    for bad, rule in (
        ("{learning_rate: 0}", "phases: learning_rate must be above 0"),
        ("{decay: fast}", "cosine, linear, constant; got 'fast'"),
        ("{min_learning_rate: 1}", "must not be above learning_rate"),
        ("{tokens: 1}", "tokens"),
    ):
        file.write_text(f"phases: [{bad}]\n")
        with pytest.raises(ConfigError, match=rule):
            load_config_of(SftConfig, file)
    file.write_text("phases: []\n")
    with pytest.raises(ConfigError, match="at least one phase"):
        load_config_of(SftConfig, file)
