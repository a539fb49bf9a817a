"""What vLLM's workers do on a CPU when told to sleep: give back the memory of weights and KV cache.

vLLM's own sleep mode is a no-op there. Mixed into vLLM's worker (`--worker-extension-cls`), called through
`/collective_rpc`. Nothing has to be done to wake up: the pages come back, as zeros, when they are written. The weights
are gone, so the next version must be loaded before anything is sampled, which also makes oneDNN's packed copies anew.
"""

import gc
from typing import TYPE_CHECKING, Any

import torch

from megatron_k15.offload.pages import release_freed_memory, release_pages

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class WorkerMemory:
    """Mixed into vLLM's worker class. The names must not be among the worker's own."""

    if TYPE_CHECKING:
        model_runner: "GPUModelRunner"

    def k15_free_memory(self) -> dict[str, int]:
        """Give back the memory of weights and KV cache, and say how much. Nothing may be in flight."""
        model = self.model_runner.model
        for layer in model.modules():
            if hasattr(layer, "cpu_linear"):
                layer.cpu_linear = None  # frees the packed copy of the weight; loading packs anew
        tensors = [*model.parameters(), *_flat(self.model_runner.kv_caches)]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
        num_bytes = sum(release_pages(storage) for storage in storages.values() if storage.nbytes())
        gc.collect()
        release_freed_memory()
        return {"bytes": num_bytes}


def _flat(caches: list[Any]) -> list[torch.Tensor]:
    return [tensor for cache in caches for tensor in (cache if isinstance(cache, list | tuple) else [cache])]
