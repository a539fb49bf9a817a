"""The long-CoT warm-up set (§2.2): templates draw out plans, checks, second thoughts and other ways; what is right and
shows them becomes a row for train_sft, without the template.

python tools/build_long_cot.py --prompts FILE.jsonl … --model DIR --output long_cot.jsonl

Run it again to go on after an interruption. See docs/sampling.md.
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from megatron_k15.errors import ConfigError
from megatron_k15.sampling.building import build, parser
from megatron_k15.sampling.choosing import Row
from megatron_k15.sampling.long_cot import SIGNS, TEMPLATES, choose_long_cot, kind_counts


def main(arguments: list[str] | None = None) -> int:
    made = parser("Long chains of thought.", num_samples=2)
    made.add_argument("--template", action="append", metavar="TEXT", help="in place of the four; holds {prompt}")
    made.add_argument("--sign", action="append", metavar="KIND=WORD", default=[], help="more words that show a kind")
    made.add_argument("--min-kinds", type=int, default=2, help="of thought that an answer must show (%(default)s)")
    made.add_argument("--max-per-prompt", type=int, default=1)
    options = made.parse_args(arguments)
    try:
        signs = _signs(options.sign)
        templates = _templates(options.template)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

    def kinds(rows: Sequence[Row]) -> dict[str, Any]:
        return {"kinds": kind_counts([row["messages"][-1]["content"] for row in rows], signs)}

    choose = partial(choose_long_cot, signs=signs, min_kinds=options.min_kinds, max_per_prompt=options.max_per_prompt)
    return build(options, choose, asks=templates, more_numbers=kinds)


def _signs(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    signs = dict(SIGNS)
    for text in given:
        kind, equals, word = text.partition("=")
        if not (kind and equals and word):
            raise ConfigError(f"--sign must be KIND=WORD, got {text!r}")
        signs[kind] = (*signs.get(kind, ()), word.lower())
    return signs


def _templates(given: Sequence[str] | None) -> dict[str, str]:
    if not given:
        return dict(TEMPLATES)
    for text in given:
        if "{prompt}" not in text:
            raise ConfigError(f"--template must hold {{prompt}}, got {text!r}")
    return {f"template {number}": text for number, text in enumerate(given)}


if __name__ == "__main__":
    sys.exit(main())
