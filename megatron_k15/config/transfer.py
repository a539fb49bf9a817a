"""Weights from the trainer to vLLM, and who owns the devices."""

from dataclasses import dataclass

from megatron_k15.config.checks import above_zero, at_least, one_of
from megatron_k15.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Weights from the trainer to vLLM."""

    backend: str = "auto"
    """`shared_memory`, `ipc`, `nccl`; `auto` is shared_memory on CPU and ipc on CUDA."""
    logprob_gap_limit: float | None = None
    """Largest mean |trainer - vLLM| logprob over the probe batch after a sync. None: 1e-4 in fp32, 0.02 in bf16."""
    num_probe_sequences: int = 4
    timeout_seconds: float = 300.0

    def __post_init__(self) -> None:
        one_of("transfer.backend", self.backend, ("auto", "shared_memory", "ipc", "nccl"))
        above_zero("transfer.logprob_gap_limit", self.logprob_gap_limit)
        at_least("transfer.num_probe_sequences", self.num_probe_sequences, 1)


@dataclass(frozen=True, kw_only=True)
class ColocateConfig:
    """Trainer and vLLM take turns on the same devices (§2.6.3)."""

    mode: str = "off"
    """`off`: both keep their memory. `sleep`: vLLM keeps its process and gives back weights and KV cache while the
    trainer trains. `restart`: vLLM is ended then, and started anew with dummy weights. In both the trainer gives back
    parameters, gradients and optimizer state during rollouts."""
    start_early: bool = False
    """`restart`: start vLLM before the trainer has given its memory back; needs room for both."""
    offload_dir: str = ""
    """Where the trainer's bytes wait on a CPU; empty means `<run_dir>/offload`. On CUDA it is pinned host memory."""

    def __post_init__(self) -> None:
        one_of("colocate.mode", self.mode, ("off", "sleep", "restart"))
        if self.start_early and self.mode != "restart":
            raise ConfigError(f"colocate.start_early goes with colocate.mode=restart, got mode {self.mode}")
