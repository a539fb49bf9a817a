"""Training of the classic reward model (§2.3.5); `reward_model.py` is about using one."""

from dataclasses import dataclass

from megatron_k15.config.phases import PackedPhaseConfig
from megatron_k15.config.stage import PackedStageConfig


@dataclass(frozen=True, kw_only=True)
class RewardModelTrainingConfig(PackedStageConfig):
    """Rows hold `question`, `reference`, `response` and `correct`, true or false."""

    run_dir: str = "runs/reward_model"
    phases: tuple[PackedPhaseConfig, ...] = (
        PackedPhaseConfig(sequence_tokens=8192, learning_rate=1e-5, min_learning_rate=1e-6, warmup_steps=20),
    )
