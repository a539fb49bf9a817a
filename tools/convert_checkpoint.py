"""Convert a model between a Hugging Face directory and a Megatron (`torch_dist`) directory; see docs/checkpoints.md."""

import argparse
import sys
from pathlib import Path

from megatron_k15.errors import K15Error

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def main() -> int:
    arguments = _parser().parse_args()
    # torch takes seconds to import: not before the arguments are known to be good.
    import torch

    from megatron_k15.checkpoint.conversion import hf_to_megatron, megatron_to_hf

    # The copies are of a few megabytes: a second thread gains nothing, and is waited for on a busy machine.
    torch.set_num_threads(1)
    dtype = getattr(torch, DTYPES[arguments.dtype]) if arguments.dtype else None
    try:
        if arguments.direction == "hf-to-megatron":
            hf_to_megatron(
                arguments.input,
                arguments.output,
                tensor_size=arguments.tensor_parallel_size,
                pipeline_size=arguments.pipeline_parallel_size,
                dtype=dtype,
            )
        else:
            megatron_to_hf(arguments.input, arguments.output, dtype=dtype, config_directory=arguments.hf_config)
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {arguments.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--direction", required=True, choices=("hf-to-megatron", "megatron-to-hf"))
    parser.add_argument("--input", required=True, type=Path, metavar="DIR")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="must not exist yet")
    parser.add_argument(
        "--tensor-parallel-size",
        type=int,
        default=1,
        metavar="N",
        help="how the Megatron files are cut; any size loads",
    )
    parser.add_argument("--pipeline-parallel-size", type=int, default=1, metavar="N", help="likewise")
    parser.add_argument("--dtype", choices=DTYPES, help="cast; without it every tensor keeps its dtype")
    parser.add_argument(
        "--hf-config",
        type=Path,
        metavar="DIR",
        help="megatron-to-hf: where config and tokenizer are, for a checkpoint that this tool did not write",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
