"""megatron-core 0.16.1 on a CPU: every redirection of its CUDA assumptions, and why.

| megatron-core does                                           | here it becomes        | where it is met           |
| ------------------------------------------------------------ | ---------------------- | ------------------------- |
| `torch.cuda.current_device()` as a `device=` argument        | `cpu`                  | layers, DDP buffers, p2p  |
| `device="cuda"` or an integer device in factory calls        | `cpu`                  | optimizer, losses, RNG    |
| `torch.cuda.synchronize`, streams, events                    | nothing                | schedules, DDP, p2p       |
| `Tensor.cuda()`, `Module.cuda()`                             | the object itself      | checkpointing, rope       |
| `torch.cuda.FloatTensor(list)`, `IntTensor`                  | CPU tensors            | grad norm, loss scaling   |
| `Tensor.type() == "torch.cuda.FloatTensor"`                  | answers the CUDA name  | optimizer's type switch   |
| `torch.cuda.get_rng_state`, `set_rng_state`, `manual_seed`   | the CPU generator      | TP RNG tracker, recompute |
| `pin_memory=True`                                            | dropped                | rope, dynamic shapes      |
| the advice to set `CUDA_DEVICE_MAX_CONNECTIONS`              | not printed            | tensor parallel layers    |

`redirect_cuda()` is called once by `parallel.context.initialize`, and only where no GPU is present.
"""

import contextlib
import warnings
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_CPU = torch.device("cpu")
_installed: list[TorchFunctionMode] = []


class _NoStream:
    """Stands for streams and events: on a CPU everything has happened when the call returns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def wait_stream(self, other: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def record_event(self, *args: Any) -> "_NoStream":
        return self

    def record(self, *args: Any) -> None: ...

    def wait(self, *args: Any) -> None: ...

    def synchronize(self) -> None: ...


def _on_cpu(device: Any) -> Any:
    if isinstance(device, int) or str(device).startswith("cuda"):
        return _CPU
    return device


class _CudaArgumentsToCpu(TorchFunctionMode):
    """Rewrites `device=` and drops `pin_memory=` in every torch call of this thread."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if kwargs:
            if kwargs.get("device") is not None:
                kwargs["device"] = _on_cpu(kwargs["device"])
            kwargs.pop("pin_memory", None)
        return func(*args, **(kwargs or {}))


def redirect_cuda() -> None:
    """Install the table above in this process. Later calls do nothing.

    Raises:
        RuntimeError: a GPU is present, where nothing may be patched.
    """
    if _installed:
        return
    if torch.cuda.is_available():
        raise RuntimeError("redirect_cuda is for machines without a GPU")
    _redirect_functions()
    _redirect_tensors()
    warnings.filterwarnings(
        "ignore", r"When using (sequence parallelism|async grad allreduce) it is recommended to set the environment"
    )
    mode = _CudaArgumentsToCpu()
    mode.__enter__()
    _installed.append(mode)


def _redirect_functions() -> None:
    cuda: Any = torch.cuda
    cuda.current_device = lambda: _CPU
    cuda.synchronize = lambda *args, **kwargs: None
    cuda.Stream = cuda.Event = _NoStream
    cuda.current_stream = cuda.default_stream = lambda *args, **kwargs: _NoStream()
    cuda.stream = lambda stream: contextlib.nullcontext()
    cuda.empty_cache = lambda: None
    for module in (cuda, cuda.random):
        module.get_rng_state = lambda *args, **kwargs: torch.get_rng_state()
        module.set_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    cuda.manual_seed = torch.manual_seed
    cuda.default_generators = ()
    cuda.FloatTensor = lambda values=(): torch.tensor(values, dtype=torch.float32)
    cuda.IntTensor = lambda values=(): torch.tensor(values, dtype=torch.int32)


def _redirect_tensors() -> None:
    tensor: Any = torch.Tensor
    plain_type = tensor.type

    def cuda_type(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = plain_type(self, *args, **kwargs)
        # Inside a TorchFunctionMode torch looks the method up by name and comes by here twice.
        if args or not isinstance(answer, str) or answer.startswith("torch.cuda."):
            return answer
        return answer.replace("torch.", "torch.cuda.")

    tensor.type = cuda_type
    tensor.cuda = lambda self, *args, **kwargs: self
    torch.nn.Module.cuda = lambda self, *args, **kwargs: self
