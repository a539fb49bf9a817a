"""Rejection sampling (§2.5.2): different correct answers to each prompt become rows for train_sft.

python tools/rejection_sample.py --prompts FILE.jsonl … --model DIR --output answers.jsonl

Run it again to go on after an interruption. See docs/sampling.md.
"""

import sys
from functools import partial

from megatron_k15.sampling.building import build, parser
from megatron_k15.sampling.rejection import choose_correct


def main(arguments: list[str] | None = None) -> int:
    made = parser("Correct answers for SFT.", num_samples=4)
    made.add_argument("--max-per-prompt", type=int, default=2, help="different answers kept (%(default)s)")
    options = made.parse_args(arguments)
    return build(options, partial(choose_correct, max_per_prompt=options.max_per_prompt))


if __name__ == "__main__":
    sys.exit(main())
