"""What the master drives. Started and owned by `train_rl`; nothing here starts or stops anything."""

from dataclasses import dataclass

from megatron_k15.colocate import Colocation
from megatron_k15.engines.pool import EnginePool
from megatron_k15.event_loop import EventLoopThread
from megatron_k15.metrics import MetricsWriter, Progress
from megatron_k15.prompts.prompt_set import PromptSets
from megatron_k15.replay.buffer import ReplayBuffer
from megatron_k15.rewards.score import Scorer
from megatron_k15.rollout.segments import Decode
from megatron_k15.trainer_group import TrainerGroup
from megatron_k15.weight_sync import WeightSync


@dataclass(kw_only=True)
class Parts:
    prompts: PromptSets
    pool: EnginePool
    scorer: Scorer
    replay: ReplayBuffer
    trainers: TrainerGroup
    sync: WeightSync
    colocation: Colocation
    metrics: MetricsWriter
    progress: Progress
    loop: EventLoopThread
    decode: Decode
