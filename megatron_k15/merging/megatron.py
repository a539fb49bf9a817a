"""Megatron directories (`torch_dist`) → their average, a piece at a time.

Whatever split they were written at: a `torch_dist` checkpoint is read by rows. The result is cut for one tensor and
pipeline rank, and loads at any split.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from megatron_k15.checkpoint import manifest
from megatron_k15.checkpoint.companions import copy_companions
from megatron_k15.checkpoint.conversion import HF_FOLDER, PIECE_BYTES, check_stored, compared_with_manifest
from megatron_k15.checkpoint.new_directory import new_directory
from megatron_k15.checkpoint.stored_parameters import StoredParameter, state_keys, stored_parameters
from megatron_k15.checkpoint.torch_dist_reader import TorchDistReader
from megatron_k15.checkpoint.torch_dist_writer import TorchDistWriter
from megatron_k15.errors import ModelError
from megatron_k15.merging.average import average_into, normalized
from megatron_k15.merging.fit import check_companions
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.hf_files import DTYPES

FILE_NAME = "__0_0.distcp"


def merge_megatron(directories: Sequence[Path], weights: Sequence[float], target: Path) -> None:
    """
    Raises:
        ModelError: the models do not fit together; nothing is written.
        CheckpointError: one is damaged, or `target` exists or could not be written.
    """
    architecture = Architecture.from_hf(directories[0] / HF_FOLDER)
    readers = [TorchDistReader.open(directory) for directory in directories]
    dtypes = [check_stored(*pair) for pair in zip(directories, [architecture] * len(readers), readers, strict=True)]
    for directory, dtype in zip(directories[1:], dtypes[1:], strict=True):
        check_companions(directories[0] / HF_FOLDER, directory / HF_FOLDER)
        if dtype != dtypes[0]:
            raise ModelError(f"models must have one dtype; {directories[0]} is {dtypes[0]}, {directory} is {dtype}")
    for directory in directories:
        with compared_with_manifest(directory):
            pass
    parameters = stored_parameters(architecture)
    with new_directory(target) as staging:
        with TorchDistWriter(staging) as writer:
            for parameter in parameters:
                _merge_parameter(parameter, readers, normalized(weights), dtypes[0], writer)
            for key in state_keys(parameters, architecture):
                writer.add_empty_state(FILE_NAME, key)
        copy_companions(directories[0] / HF_FOLDER, staging / HF_FOLDER)
        facts = {
            "architecture": architecture.hf_name,
            "dtype": str(dtypes[0]).removeprefix("torch."),
            "tensor_parallel_size": 1,
            "pipeline_parallel_size": 1,
        }
        manifest.write(staging, facts, checksums=writer.checksums)


def _merge_parameter(
    parameter: StoredParameter,
    readers: Sequence[TorchDistReader],
    weights: Sequence[float],
    dtype: torch.dtype,
    writer: TorchDistWriter,
) -> None:
    num_rows = parameter.shape[0]
    row_bytes = torch.Size(parameter.shape[1:]).numel() * dtype.itemsize
    step = max(1, PIECE_BYTES // row_bytes)
    for start in range(0, num_rows, step):
        stop = min(start + step, num_rows)
        rows = [reader.rows(parameter.key, parameter.layer, start, stop) for reader in readers]
        merged = _average(rows, weights, dtype)
        if parameter.layer is not None:
            merged = merged.unsqueeze(0)
        writer.add_tensor(FILE_NAME, parameter.key, parameter.stored_shape, parameter.stored_offset(start), merged)
        for reader in readers:
            reader.release()


def _average(rows: Sequence[Tensor], weights: Sequence[float], dtype: torch.dtype) -> Tensor:
    name = next(key for key, value in DTYPES.items() if value == dtype)
    merged = torch.empty(rows[0].shape, dtype=dtype)
    average_into([_bytes(piece.contiguous()) for piece in rows], weights, name, _bytes(merged))
    return merged


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.view(-1).view(torch.uint8).numpy()
