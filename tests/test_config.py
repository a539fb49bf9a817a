"""Configuration: overrides arrive, bad values are refused with a sentence a user can act on, printing reads back."""

from pathlib import Path

import pytest

from megatron_k15.config import load_config, to_yaml
from megatron_k15.errors import ConfigError


def test_yaml_and_overrides_merge(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train:\n  tau: 0.5\nprompts:\n  reasoning_gym:\n    chain_sum:\n      max_terms: 2\n")
    config = load_config(file, ["train.learning_rate=2e-5", 'rollout.stop_at=["\\n"]'])
    assert config.train.tau == 0.5
    assert config.train.learning_rate == 2e-5
    assert config.rollout.stop_at == ("\n",)
    assert config.prompts.reasoning_gym == {"chain_sum": {"max_terms": 2}}


def test_off_is_a_word(tmp_path: Path) -> None:
    """YAML takes `off` for false, from a file and from the command line."""
    file = tmp_path / "run.yaml"
    file.write_text("train:\n  importance_correction: off\n")
    config = load_config(file, ["metrics.wandb=off", "metrics.tensorboard=off"])
    assert (config.train.importance_correction, config.metrics.wandb) == ("off", "off")
    assert config.metrics.tensorboard is False


def test_what_is_printed_reads_back_the_same(tmp_path: Path) -> None:
    config = load_config(None, ["train.tau=0.25", "prompts.files=[a.jsonl]", "parallel.tensor_parallel_size=2"])
    file = tmp_path / "resolved.yaml"
    file.write_text(to_yaml(config))
    assert load_config(file) == config


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("train.tua=1", "tua"),
        ("train.tau=0", "train.tau must be above 0, got 0"),
        ("train.tau=much", "train.tau"),
        ("train.baseline=median", "mean, log_mean_exp; got 'median'"),
        ("rollout.responses_per_prompt=1", "rollout.responses_per_prompt must be at least 2, got 1"),
        ("rollout.top_p=1.5", "rollout.top_p"),
        ("parallel.virtual_pipeline_parallel_size=2", "pipeline_parallel_size of at least 2"),
        ("train.steps_per_iteration=3", "must divide"),
        ("prompts.instruction=hello", "{prompt}"),
        ("rollout.budget_tokens=0", "rollout.budget_tokens must be at least 1, got 0"),
        ("rollout.at_max_staleness=wait", "end, drop; got 'wait'"),
    ],
)
def test_bad_values_are_named(override: str, names: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert names in str(caught.value)


def test_truncated_sampling_and_off_policy_correction_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="top_p"):
        load_config(None, ["rollout.top_p=0.9", "train.importance_correction=truncated"])
    assert load_config(None, ["rollout.top_p=0.9"]).rollout.truncates


def test_older_segments_in_the_loss_want_off_policy_correction() -> None:
    overrides = ["rollout.budget_tokens=8", "train.loss_segments=all"]
    with pytest.raises(ConfigError, match="importance_correction=truncated"):
        load_config(None, overrides)
    assert load_config(None, [*overrides, "train.importance_correction=truncated"]).rollout.continues


def test_in_flight_updates_exclude_budgets_and_need_room() -> None:
    with pytest.raises(ConfigError, match="set one of the two"):
        load_config(None, ["rollout.in_flight_updates=true", "rollout.budget_tokens=8"])
    with pytest.raises(ConfigError, match="max_open_groups must be at least that, got 3"):
        load_config(None, ["rollout.in_flight_updates=true", "rollout.max_open_groups=3"])
    assert load_config(None, ["rollout.in_flight_updates=true"]).rollout.most_new_prompts == 32


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_config("nowhere.yaml")
