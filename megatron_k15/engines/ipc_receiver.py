"""vLLM's own CUDA IPC receiver, told by JSON instead of by pickle (see `ipc_handles.py`). Inside every vLLM worker.

Has not run on a GPU yet: what a CPU can check is checked in tests/transfer/test_vllm_sender.py (docs/gpu.md).
"""

from typing import Any

from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine, IPCWeightTransferUpdateInfo

from megatron_k15.engines.ipc_handles import from_json


class JsonIpcReceiver(IPCWeightTransferEngine):
    """Everything but the form of the handles is vLLM's."""

    def parse_update_info(self, update_dict: dict[str, Any]) -> IPCWeightTransferUpdateInfo:
        return read_update_info(update_dict)


def read_update_info(update: dict[str, Any]) -> IPCWeightTransferUpdateInfo:
    """
    Raises:
        ValueError: a pickle, or handles that are not what `ipc_handles.to_json` makes.
    """
    if "ipc_handles_pickled" in update:
        raise ValueError("IPC handles must come as JSON: pickles are not read here")
    return IPCWeightTransferUpdateInfo(**{**update, "ipc_handles": from_json(update["ipc_handles"])})
