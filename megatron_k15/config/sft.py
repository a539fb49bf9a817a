"""Supervised fine-tuning on chats: vanilla SFT (§2.5.2) and the long-CoT warm-up (§2.2)."""

from dataclasses import dataclass, field

from megatron_k15.config.phases import DataConfig, PackedPhaseConfig
from megatron_k15.config.stage import StageConfig
from megatron_k15.errors import ConfigError

TWO_PHASES = (
    PackedPhaseConfig(sequence_tokens=32768, learning_rate=2e-5, min_learning_rate=2e-6),
    PackedPhaseConfig(sequence_tokens=131072, learning_rate=1e-5, min_learning_rate=1e-6, warmup_steps=50),
)
"""§2.5.2: an epoch at 32k tokens, then one at 128k for which the rate is warmed up again."""


@dataclass(frozen=True, kw_only=True)
class SftConfig(StageConfig):
    run_dir: str = "runs/sft"
    data: DataConfig = field(default_factory=DataConfig)
    """Rows hold `messages`: a list of {role, content}. The loss sees what the assistant says."""
    phases: tuple[PackedPhaseConfig, ...] = TWO_PHASES

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.phases:
            raise ConfigError("phases must name at least one phase; it is empty")
