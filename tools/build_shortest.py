"""Shortest rejection sampling (§2.4): n answers per prompt, the shortest correct one becomes a row for train_sft.

python tools/build_shortest.py --prompts FILE.jsonl … --model DIR --output shortest.jsonl

Run it again to go on after an interruption. See docs/sampling.md.
"""

import sys

from megatron_k15.sampling.building import build, parser
from megatron_k15.sampling.shortest import NUM_SAMPLES, choose_shortest


def main(arguments: list[str] | None = None) -> int:
    options = parser("The shortest correct answers.", num_samples=NUM_SAMPLES).parse_args(arguments)
    return build(options, choose_shortest)


if __name__ == "__main__":
    sys.exit(main())
