"""The configuration of a run: YAML plus `key=value`, checked when it is built. Imports no torch.

`load_config(path, overrides)` returns a `Config`. Every room gets only its own part. Units are in the names.
Defaults follow the report (`§` marks its section) where it gives a number.
"""

from megatron_k15.config.checks import DTYPES
from megatron_k15.config.dpo import DpoConfig
from megatron_k15.config.join import JoinConfig
from megatron_k15.config.model import ModelConfig, ParallelConfig
from megatron_k15.config.phases import DataConfig, PackedPhaseConfig, PhaseConfig
from megatron_k15.config.pretrain import MixConfig, PretrainConfig, PretrainPhaseConfig
from megatron_k15.config.prompts import PromptConfig
from megatron_k15.config.reading import load_config, load_config_of, to_yaml
from megatron_k15.config.reward import RewardConfig, SandboxConfig
from megatron_k15.config.reward_model import RewardModelConfig
from megatron_k15.config.reward_model_training import RewardModelTrainingConfig
from megatron_k15.config.rollout import EngineConfig, RolloutConfig
from megatron_k15.config.run import CheckpointConfig, Config, EvaluationConfig, MetricsConfig
from megatron_k15.config.sft import SftConfig
from megatron_k15.config.stage import PackedStageConfig, StageConfig
from megatron_k15.config.train import TrainConfig
from megatron_k15.config.transfer import ColocateConfig, TransferConfig
from megatron_k15.config.update import UpdateConfig

__all__ = [
    "DTYPES",
    "CheckpointConfig",
    "ColocateConfig",
    "Config",
    "DataConfig",
    "DpoConfig",
    "EngineConfig",
    "EvaluationConfig",
    "JoinConfig",
    "MetricsConfig",
    "MixConfig",
    "ModelConfig",
    "PackedPhaseConfig",
    "PackedStageConfig",
    "ParallelConfig",
    "PhaseConfig",
    "PretrainConfig",
    "PretrainPhaseConfig",
    "PromptConfig",
    "RewardConfig",
    "RewardModelConfig",
    "RewardModelTrainingConfig",
    "RolloutConfig",
    "SandboxConfig",
    "SftConfig",
    "StageConfig",
    "TrainConfig",
    "TransferConfig",
    "UpdateConfig",
    "load_config",
    "load_config_of",
    "to_yaml",
]
