"""A Hugging Face directory in a chosen dtype, as one safetensors file."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from megatron_k15.checkpoint.companions import copy_companions
from megatron_k15.checkpoint.hf_layout import set_config_dtype
from megatron_k15.models.weight_files import SINGLE_FILE


def copy_model(source: Path, directory: Path, dtype: torch.dtype) -> Path:
    """Write `source` to the new `directory` with all tensors in `dtype`."""
    copy_companions(source, directory)
    set_config_dtype(directory, dtype)
    with safe_open(source / SINGLE_FILE, framework="pt") as file:
        tensors = {name: file.get_tensor(name).to(dtype) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, directory / SINGLE_FILE, metadata={"format": "pt"})
    return directory
