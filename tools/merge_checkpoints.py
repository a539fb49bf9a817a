"""Average models (§2.4): Hugging Face or Megatron directories, plain or weighted.

python tools/merge_checkpoints.py --models DIR DIR … --output DIR [--weights W W …]

See docs/merging.md.
"""

import argparse
import math
import sys
from pathlib import Path

from megatron_k15.errors import ConfigError, K15Error


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Average the weights of models.")
    parser.add_argument("--models", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="must not exist yet")
    parser.add_argument("--weights", type=float, nargs="+", metavar="W", help="one per model; divided by their sum")
    options = parser.parse_args(arguments)
    weights = options.weights or [1.0] * len(options.models)
    try:
        _check(options.models, weights)
        _merge(options.models, weights, options.output)
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {options.output}")
    return 0


def _check(models: list[Path], weights: list[float]) -> None:
    if len(models) < 2:
        raise ConfigError("--models must name at least two directories")
    if len(weights) != len(models):
        raise ConfigError(f"--weights must be one per model; got {len(weights)} for {len(models)} models")
    if not all(map(math.isfinite, weights)) or abs(sum(weights)) < 1e-6:
        raise ConfigError(f"--weights must be numbers whose sum is not zero; got {weights}")


def _merge(models: list[Path], weights: list[float], output: Path) -> None:
    # Imported where it is known which is needed: torch takes longer to import than two small models to merge.
    if all((model / ".metadata").is_file() for model in models):
        from megatron_k15.merging.megatron import merge_megatron

        merge_megatron(models, weights, output)
    else:
        from megatron_k15.merging.hugging_face import merge_hugging_face

        merge_hugging_face(models, weights, output)


if __name__ == "__main__":
    sys.exit(main())
