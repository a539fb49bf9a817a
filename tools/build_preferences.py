"""Preference pairs for train_dpo (§2.4): the shortest correct answer against longer wrong and much longer correct ones.

python tools/build_preferences.py --prompts FILE.jsonl … --model DIR --output pairs.jsonl

Run it again to go on after an interruption. See docs/sampling.md.
"""

import sys
from functools import partial

from megatron_k15.sampling.building import build, parser
from megatron_k15.sampling.preferences import LENGTH_RATIO, choose_preferences
from megatron_k15.sampling.shortest import NUM_SAMPLES


def main(arguments: list[str] | None = None) -> int:
    made = parser("Preference pairs for shorter answers.", num_samples=NUM_SAMPLES)
    made.add_argument("--length-ratio", type=float, default=LENGTH_RATIO, help="of a rejected correct answer")
    made.add_argument("--max-pairs", type=int, help="per prompt (all)")
    options = made.parse_args(arguments)
    choose = partial(choose_preferences, length_ratio=options.length_ratio, max_pairs=options.max_pairs)
    return build(options, choose)


if __name__ == "__main__":
    sys.exit(main())
