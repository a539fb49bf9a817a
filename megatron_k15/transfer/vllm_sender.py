"""Weights from the trainer's GPUs to vLLM's, through vLLM's own backends, with no copy through the host.

    shards → whole tensors, one after another (`gathered.py`) → packed parts → CUDA IPC or NCCL → vLLM

- `ipc`: vLLM and trainer share GPUs. Every trainer rank fills a buffer and hands out its handle; each vLLM worker maps
  the buffer that lies on its own GPU.
- `nccl`: rank 0 broadcasts to all vLLM workers, none of which may share its GPU.

Unlike the shared-memory publisher, `publish` returns when vLLM has the version: sending and loading go together.
Has not run on a GPU yet (docs/gpu.md).
"""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from megatron_k15.errors import ConfigError, TransferError
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import weight_rules
from megatron_k15.models.policy import PolicyModel
from megatron_k15.parallel.context import ParallelContext
from megatron_k15.parallel.platform import DTYPES
from megatron_k15.transfer.gathered import full_tensors

if TYPE_CHECKING:
    from megatron_k15.engines.update_control import UpdateControl


class VllmSender:
    """Collective over all ranks: `publish`. Meets vLLM at the first one: until then vLLM may still be starting."""

    def __init__(
        self,
        chunks: Sequence[PolicyModel],
        architecture: Architecture,
        context: ParallelContext,
        *,
        dtype: str,
        backend: Literal["ipc", "nccl"],
        control: "UpdateControl | None",
        timeout_seconds: float,
    ) -> None:
        """
        Args:
            dtype: that vLLM runs in, `fp32` or `bf16`; weights are cast to it on the way.
            control: of the pool on rank 0; None elsewhere.
            timeout_seconds: for vLLM to take one part.

        Raises:
            ConfigError: the trainer runs on CPUs.
        """
        if context.platform.name != "cuda":
            raise ConfigError(f"transfer.backend={backend} needs GPUs; on CPUs use transfer.backend=shared_memory")
        assert (control is not None) == (context.rank == 0)
        self._chunks = chunks
        self._architecture = architecture
        self._context = context
        self._dtype = DTYPES[dtype]
        self._backend = backend
        self._control = control
        self._timeout_seconds = timeout_seconds
        self._engine: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def publish(self, version: int) -> dict[str, Any]:
        """Send `version` whole; all vLLM instances have it afterwards. {} says that nothing is left to load.

        Raises:
            TransferError: vLLM, NCCL or CUDA reported an error, or vLLM did not take a part in time.
        """
        # The senders pack on streams of their own, which do not wait for the optimizer's.
        torch.cuda.synchronize()
        if self._control is not None:
            self._control.version = version
        try:
            if self._engine is None:
                self._engine = self._open()
            self._engine.send_weights()
        except RuntimeError as error:
            raise TransferError(f"weight version {version} did not reach vLLM ({self._backend}): {error}") from error
        return {}

    def _open(self) -> Any:
        # vllm is imported here: runs over shared memory never load it into the trainer.
        from megatron_k15.engines.weight_senders import TensorSource, open_ipc, open_nccl

        shapes = [(rule.hf_name, rule.hf_shape) for rule in weight_rules(self._architecture)]
        source = TensorSource(shapes, self._dtype, self._tensors)
        if self._backend == "ipc":
            return open_ipc(source, self._context.rank, self._control)
        return open_nccl(source, self._context.rank, self._control, limit_seconds=self._timeout_seconds)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        everywhere = self._backend == "ipc"
        return full_tensors(self._chunks, self._architecture, self._context, self._dtype, everywhere=everywhere)
