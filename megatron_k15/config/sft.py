"""Supervised fine-tuning on chats: vanilla SFT (§2.5.2) and the long-CoT warm-up (§2.2)."""

from dataclasses import dataclass

from megatron_k15.config.phases import PackedPhaseConfig
from megatron_k15.config.stage import PackedStageConfig

TWO_PHASES = (
    PackedPhaseConfig(sequence_tokens=32768, learning_rate=2e-5, min_learning_rate=2e-6),
    PackedPhaseConfig(sequence_tokens=131072, learning_rate=1e-5, min_learning_rate=1e-6, warmup_steps=50),
)
"""§2.5.2: an epoch at 32k tokens, then one at 128k for which the rate is warmed up again."""


@dataclass(frozen=True, kw_only=True)
class SftConfig(PackedStageConfig):
    """Rows hold `messages`: a list of {role, content}. The loss sees what the assistant says."""

    run_dir: str = "runs/sft"
    phases: tuple[PackedPhaseConfig, ...] = TWO_PHASES
