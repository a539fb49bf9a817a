"""What stands beside a model's weights. No torch."""

import shutil
from pathlib import Path

COMPANION_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja", ".md", ".tiktoken"})
"""Config, generation config, tokenizer, chat template, model card. Never code, never pickles."""


def copy_companions(source: Path, target: Path) -> None:
    """Copy what stands beside the weights: config, tokenizer, chat template, model card, licence."""
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and _is_companion(path):
            shutil.copyfile(path, target / path.name)


def _is_companion(path: Path) -> bool:
    if path.name.startswith(("LICENSE", "NOTICE")):
        return True
    return path.suffix in COMPANION_SUFFIXES and not path.name.endswith(".index.json")
