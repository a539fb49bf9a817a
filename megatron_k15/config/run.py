"""One RL run: all of its parts, and the rules between them."""

from dataclasses import dataclass, field

from megatron_k15.config.checks import above_zero, at_least, one_of
from megatron_k15.config.join import JoinConfig
from megatron_k15.config.model import ModelConfig, ParallelConfig
from megatron_k15.config.prompts import PromptConfig
from megatron_k15.config.reward import RewardConfig, SandboxConfig
from megatron_k15.config.rollout import EngineConfig, RolloutConfig
from megatron_k15.config.train import TrainConfig
from megatron_k15.config.transfer import ColocateConfig, TransferConfig
from megatron_k15.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    num_prompts: int = 0
    """Held-out prompts, answered greedily before the first and after the last iteration; 0 turns this off."""
    every_iterations: int = 0
    """Evaluate in between as well; 0 does not."""
    files: tuple[str, ...] = ()
    """Held-out files; empty holds out `num_prompts` of the reasoning-gym tasks, disjoint from training."""

    def __post_init__(self) -> None:
        at_least("evaluation.num_prompts", self.num_prompts, 0)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    every_iterations: int = 10
    """0 saves no resume checkpoints."""
    num_kept: int = 2
    resume: bool = True
    """Continue from the newest good checkpoint of `run_dir`, where there is one."""
    export_dir: str = ""
    """The Hugging Face directory written at the end; empty means `<run_dir>/hf`."""

    def __post_init__(self) -> None:
        at_least("checkpoint.num_kept", self.num_kept, 1)


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    tensorboard: bool = True
    wandb: str = "offline"
    """`offline` (files below the run's directory), `online`, or `off`."""
    wandb_project: str = "megatron_k15"
    num_samples_saved: int = 8
    """Trajectories written per iteration with their rewards; 0 saves none."""

    def __post_init__(self) -> None:
        one_of("metrics.wandb", self.wandb, ("off", "offline", "online"))
        at_least("metrics.num_samples_saved", self.num_samples_saved, 0)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One RL run."""

    run_dir: str = "runs/rl"
    seed: int = 0
    num_iterations: int = 10
    max_minutes: float | None = None
    """Stop after the iteration in which this much time has passed; None does not."""
    wait_timeout_seconds: float = 1800.0
    """Longest time a trainer rank waits for the master between phases."""
    model: ModelConfig = field(default_factory=ModelConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    join: JoinConfig = field(default_factory=JoinConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    colocate: ColocateConfig = field(default_factory=ColocateConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    def __post_init__(self) -> None:
        at_least("num_iterations", self.num_iterations, 1)
        above_zero("max_minutes", self.max_minutes)
        if self.rollout.truncates and self.train.importance_correction != "off":
            raise ConfigError(
                "train.importance_correction needs the model's own distribution: set rollout.top_p to 1 and "
                f"rollout.top_k to 0 (they are {self.rollout.top_p} and {self.rollout.top_k}), or turn it off"
            )
        if self.colocate.mode != "off" and self.rollout.in_flight_updates:
            raise ConfigError("rollout.in_flight_updates samples while the trainer trains: set colocate.mode=off")
        if self.colocate.mode != "off" and self.transfer.backend not in ("auto", "shared_memory"):
            raise ConfigError(
                f"colocate.mode={self.colocate.mode} hands weights over in shared memory, from a trainer that has "
                f"given its own away: set transfer.backend=shared_memory, got {self.transfer.backend}"
            )
        if self.join.listen and self.transfer.backend not in ("auto", "shared_memory"):
            raise ConfigError(
                "instances that join read the weights from rank 0's shared memory: with join.listen set "
                f"transfer.backend=shared_memory, got {self.transfer.backend}"
            )
        if self.rollout.continues and self.train.loss_segments == "all" and self.train.importance_correction == "off":
            raise ConfigError(
                "train.loss_segments=all trains on tokens that older weights sampled: set "
                "train.importance_correction=truncated as well, or train.loss_segments=current"
            )
        if self.rollout.prompts_per_iteration % self.train.steps_per_iteration:
            raise ConfigError(
                f"train.steps_per_iteration ({self.train.steps_per_iteration}) must divide "
                f"rollout.prompts_per_iteration ({self.rollout.prompts_per_iteration})"
            )
