"""Accuracy, precision and recall of sources of verdicts on labelled answer pairs, side by side.

python tools/evaluate_rewards.py [--pairs FILE.jsonl …] [--source NAME …] [--classic-model DIR]
    [--reward-model DIR|URL] [--output FILE]
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_k15.config import EngineConfig, RewardConfig, RewardModelConfig
from megatron_k15.errors import ConfigError, K15Error
from megatron_k15.reward_parts import open_judge
from megatron_k15.rewards.source_scores import (
    LabelledPair,
    SourceScore,
    category_table,
    read_labelled_pairs,
    score_source,
    score_table,
)
from megatron_k15.rewards.sources import Opener, rule_sources

COT_RM, CLASSIC_RM = "cot_rm", "classic_rm"
NEEDS = {CLASSIC_RM: "--classic-model", COT_RM: "--reward-model"}
ANSWER_PAIRS = Path(__file__).resolve().parents[1] / "benchmarks" / "answer_pairs"
LABELLED_SET = (ANSWER_PAIRS / "by_hand.jsonl", ANSWER_PAIRS / "by_program.jsonl")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console(highlight=False)
    try:
        pairs = read_labelled_pairs(options.pairs)[:: options.every]
        openers = _openers(options)
        scores = asyncio.run(_scores(openers, options.source or list(openers), pairs))
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console.print(score_table(scores))
    if options.categories:
        console.print(category_table(scores))
    if options.errors:
        _print_errors(console, scores, pairs, options.errors)
    if options.output:
        options.output.write_text(json.dumps(_to_json(scores, options.pairs), indent=1) + "\n", encoding="utf-8")
        console.print(f"wrote {options.output}", soft_wrap=True, markup=False)
    return 0


def _openers(options: argparse.Namespace) -> Mapping[str, Opener]:
    """Every source there is, by name."""
    found = dict(rule_sources(RewardConfig(num_workers=options.num_workers, timeout_seconds=options.timeout_seconds)))
    if options.classic_model:
        engine = EngineConfig(max_model_len=options.classic_max_tokens, kv_cache_bytes=1 << 28)
        classic = RewardModelConfig(kind="classic", path=options.classic_model, engine=engine)
        found[CLASSIC_RM] = lambda: open_judge(classic, options.log_dir / CLASSIC_RM)
    if options.reward_model:
        where = "address" if options.reward_model.startswith("http") else "path"
        named = {where: options.reward_model, "served_name": options.served_name}
        votes = {"num_votes": options.votes, "temperature": 0.7 if options.votes > 1 else 0.0}
        cot = RewardModelConfig(kind="cot", **named, **votes)
        found[COT_RM] = lambda: open_judge(cot, options.log_dir)
    return found


async def _scores(
    openers: Mapping[str, Opener], names: Sequence[str], pairs: Sequence[LabelledPair]
) -> list[SourceScore]:
    scores = []
    for name in names:
        if name not in openers:
            raise ConfigError(f"--source {name} needs {NEEDS[name]}")
        async with openers[name]() as source:
            scores.append(await score_source(source, pairs))
    return scores


def _print_errors(console: Console, scores: Sequence[SourceScore], pairs: Sequence[LabelledPair], limit: int) -> None:
    for score in scores:
        wrong = [
            (labelled, verdict)
            for labelled, verdict in zip(pairs, score.verdicts, strict=True)
            if verdict is not labelled.label
        ]
        console.print(f"{score.name}: {len(wrong)} verdicts are not the label")
        for labelled, verdict in wrong[:limit]:
            said = {True: "right", False: "wrong", None: "undecided"}[verdict]
            pair = labelled.pair
            line = f"  {labelled.category}: {pair.given}  for  {pair.reference}: {said}"
            console.print(line, markup=False, soft_wrap=True)


def _to_json(scores: Sequence[SourceScore], paths: Sequence[Path]) -> dict[str, Any]:
    return {"pairs": [str(path) for path in paths], "sources": {score.name: score.to_json() for score in scores}}


def _parser() -> argparse.ArgumentParser:
    defaults = RewardConfig()
    names = list(rule_sources(defaults))
    parser = argparse.ArgumentParser(description="Evaluate sources of verdicts on labelled answers (docs/rewards.md).")
    parser.add_argument(
        "--pairs", type=Path, nargs="+", default=list(LABELLED_SET), metavar="FILE", help="default: the labelled set"
    )
    parser.add_argument("--source", nargs="+", choices=[*names, *NEEDS], help="default: all of them")
    parser.add_argument(
        "--reward-model", metavar="DIR|URL", help="a chat model that judges by chain of thought, as the source cot_rm"
    )
    parser.add_argument(
        "--classic-model", default="", metavar="DIR", help="what train_reward_model exported, as the source classic_rm"
    )
    parser.add_argument("--classic-max-tokens", type=int, default=512, help="of one text it reads (%(default)s)")
    parser.add_argument("--served-name", default="", help="its name at a URL")
    parser.add_argument("--votes", type=int, default=1, help="verdicts of it per pair (%(default)s)")
    parser.add_argument("--log-dir", type=Path, default=Path("logs"), help="of its vLLM (%(default)s)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth pair alone")
    parser.add_argument("--output", type=Path, metavar="JSON")
    parser.add_argument("--categories", action="store_true", help="accuracy by category too")
    parser.add_argument("--errors", type=int, default=0, metavar="N", help="show N verdicts that are not the label")
    parser.add_argument("--num-workers", type=int, default=defaults.num_workers, help="processes (%(default)s)")
    parser.add_argument(
        "--timeout-seconds", type=float, default=defaults.timeout_seconds, help="limit of one answer (%(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
