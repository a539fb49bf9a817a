"""What every supervised stage has."""

from dataclasses import dataclass, field

from megatron_k15.config.checks import above_zero
from megatron_k15.config.model import ModelConfig, ParallelConfig
from megatron_k15.config.phases import DataConfig, PackedPhaseConfig
from megatron_k15.config.run import CheckpointConfig, MetricsConfig
from megatron_k15.config.update import UpdateConfig
from megatron_k15.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    run_dir: str = "runs/stage"
    """Checkpoints, metrics, prepared data and the Hugging Face export lie here."""
    seed: int = 0
    wait_timeout_seconds: float = 1800.0
    """Longest time ranks wait for one another: at a collective, and for rank 0 to prepare the data."""
    model: ModelConfig = field(default_factory=ModelConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    train: UpdateConfig = field(default_factory=UpdateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    def __post_init__(self) -> None:
        above_zero("wait_timeout_seconds", self.wait_timeout_seconds)


@dataclass(frozen=True, kw_only=True)
class PackedStageConfig(StageConfig):
    """SFT, DPO, the reward model: whole examples in packs."""

    data: DataConfig = field(default_factory=DataConfig)
    phases: tuple[PackedPhaseConfig, ...] = (PackedPhaseConfig(),)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.phases:
            raise ConfigError("phases must name at least one phase; it is empty")
