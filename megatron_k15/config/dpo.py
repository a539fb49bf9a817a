"""Direct preference optimization, as long2short uses it (§2.4)."""

from dataclasses import dataclass

from megatron_k15.config.checks import above_zero
from megatron_k15.config.phases import PackedPhaseConfig
from megatron_k15.config.stage import PackedStageConfig


@dataclass(frozen=True, kw_only=True)
class DpoConfig(PackedStageConfig):
    """Rows hold `prompt` (text) or `messages`, and the answers `chosen` and `rejected`. A pack holds whole pairs."""

    run_dir: str = "runs/dpo"
    beta: float = 0.1
    """How strongly the policy is held to the reference: the model that the run starts from."""
    phases: tuple[PackedPhaseConfig, ...] = (
        PackedPhaseConfig(sequence_tokens=32768, learning_rate=1e-6, min_learning_rate=1e-7, warmup_steps=10),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero("beta", self.beta)
