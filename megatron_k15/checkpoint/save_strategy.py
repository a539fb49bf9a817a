"""megatron-core's `torch_dist` save without its worker processes.

Its own strategy (0.16.1) forks writers from a process that may hold a GPU, and spawns a manager that runs the entry
script's imports again. torch's writer, in this process, writes the same files.
"""

from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    TorchDistSaveShardedStrategy,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from torch.distributed import checkpoint


class SaveStrategy(TorchDistSaveShardedStrategy):
    def __init__(self) -> None:
        super().__init__("torch_dist", 1)

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str | Path) -> None:
        """Collective. Every file is synced to the disk."""
        by_key, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, True)
        checkpoint.save(
            mcore_to_pyt_state_dict(by_key, False),
            storage_writer=checkpoint.FileSystemWriter(checkpoint_dir, thread_count=1),
            planner=MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
        )
