"""Our code inside vLLM's processes, loaded by vLLM itself through the entry point `vllm.general_plugins`.

Runs once in the API server, the engine core and every worker, before the model is built.
"""

SHARED_MEMORY_BACKEND = "k15_shared_memory"
IPC_BACKEND = "k15_ipc"
"""vLLM's `ipc`, whose handles travel as JSON."""
ENGINES = {
    SHARED_MEMORY_BACKEND: ("megatron_k15.engines.weight_receiver", "SharedMemoryReceiver"),
    IPC_BACKEND: ("megatron_k15.engines.ipc_receiver", "JsonIpcReceiver"),
}
VLLM_BACKENDS = {"shared_memory": SHARED_MEMORY_BACKEND, "ipc": IPC_BACKEND, "nccl": "nccl"}
"""`transfer.backend` → the engine inside vLLM."""


def register() -> None:
    """Make our weight-transfer engines known to vLLM. May be called several times."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    for name, (module, engine) in ENGINES.items():
        if name not in WeightTransferEngineFactory._registry:
            # vLLM 0.32 takes a module path and a class name and imports them when the engine is first asked for.
            WeightTransferEngineFactory.register_engine(name, module, engine)
