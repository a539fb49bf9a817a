"""CUDA IPC handles as JSON: what torch needs to map another process's GPU memory, without pickle.

vLLM 0.32 sends these handles over HTTP as a pickle, which its server unpickles only under
VLLM_ALLOW_INSECURE_SERIALIZATION=1; that switch opens other pickles too, to whoever reaches the server. What differs
between two handles of a flat byte buffer are numbers and byte strings, so they travel as such, and the receiver builds
the rest itself. Nothing is unpickled, and the switch stays off.
"""

import base64
from collections.abc import Mapping
from typing import Any

import torch

FIELDS = (
    "tensor_cls",
    "tensor_size",
    "tensor_stride",
    "tensor_offset",
    "storage_cls",
    "dtype",
    "storage_device",
    "storage_handle",
    "storage_size_bytes",
    "storage_offset_bytes",
    "requires_grad",
    "ref_counter_handle",
    "ref_counter_offset",
    "event_handle",
    "event_sync_required",
)
"""Parameters of `torch.multiprocessing.reductions.rebuild_cuda_tensor` (torch 2.13), in order."""
BYTES = ("storage_handle", "ref_counter_handle", "event_handle")
NUMBERS = ("storage_device", "storage_size_bytes", "storage_offset_bytes", "ref_counter_offset")


def to_json(handles: Mapping[str, tuple[Any, ...]]) -> dict[str, dict[str, Any]]:
    """
    Args:
        handles: GPU UUID → arguments of `rebuild_cuda_tensor` for a flat uint8 buffer, as `reduce_tensor` gives them.
    """
    return {gpu: _to_json(dict(zip(FIELDS, values, strict=True))) for gpu, values in handles.items()}


def from_json(handles: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """
    Raises:
        ValueError: a field is missing, unknown or of the wrong kind.
    """
    return {gpu: _from_json(values) for gpu, values in handles.items()}


def _to_json(values: dict[str, Any]) -> dict[str, Any]:
    (size,) = values["tensor_size"]
    assert values["dtype"] == torch.uint8, values["dtype"]
    assert tuple(values["tensor_stride"]) == (1,), values["tensor_stride"]
    assert values["tensor_offset"] == 0, values["tensor_offset"]
    numbers = {name: int(values[name]) for name in NUMBERS}
    handles = {name: base64.b64encode(values[name]).decode() for name in BYTES}
    return {"size": int(size), "event_sync_required": bool(values["event_sync_required"]), **numbers, **handles}


def _from_json(values: Mapping[str, Any]) -> tuple[Any, ...]:
    expected = {"size", "event_sync_required", *NUMBERS, *BYTES}
    if set(values) != expected:
        raise ValueError(f"an IPC handle must have the fields {sorted(expected)}, got {sorted(values)}")
    if wrong := [name for name in ("size", *NUMBERS) if type(values[name]) is not int]:
        raise ValueError(f"an IPC handle's {wrong} must be whole numbers")
    built = {
        "tensor_cls": torch.Tensor,
        "tensor_size": torch.Size([values["size"]]),
        "tensor_stride": (1,),
        "tensor_offset": 0,
        "storage_cls": torch.storage.TypedStorage,
        "dtype": torch.uint8,
        "requires_grad": False,
        "event_sync_required": bool(values["event_sync_required"]),
        **{name: values[name] for name in NUMBERS},
        **{name: base64.b64decode(values[name], validate=True) for name in BYTES},
    }
    return tuple(built[name] for name in FIELDS)
