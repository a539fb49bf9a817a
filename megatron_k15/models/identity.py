"""Which model a directory holds, so that what it said before is not taken for what another one says."""

import hashlib
import json
from pathlib import Path


def model_identity(name: str, model_dir: Path) -> str:
    """`name` with a digest of the weights' files: a model that was trained on in the same place is another one."""
    files = sorted(model_dir.glob("*.safetensors"))
    said = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return f"{name} {hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]}"
