"""From raw prompts to an RL prompt set, as §2.1 of the report does: what is kept, why the rest is not, and a picture.

python tools/curate_prompts.py --prompts FILE.jsonl … --output DIR [--evaluation FILE.jsonl …] [--model PATH]

Run it again to go on after an interruption. See docs/curation.md.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_k15.config import RewardConfig
from megatron_k15.curation.outcome import Curated
from megatron_k15.curation.picture import draw_report
from megatron_k15.curation.pipeline import Pipeline
from megatron_k15.curation.report import balance_table, difficulty_table, funnel_table, write_results
from megatron_k15.curation.settings import CurationSettings
from megatron_k15.errors import ConfigError, DataError, K15Error
from megatron_k15.prompts.files import read_files
from megatron_k15.prompts.gym import draws
from megatron_k15.prompts.question import Question
from megatron_k15.rewards.score import Scorer
from megatron_k15.rows.problems import Problems
from megatron_k15.sampling.answerers import add_answerer_options, open_answerer
from megatron_k15.sampling.samples import SAMPLES, Sampler

PICTURE = "report.png"
Say = Callable[[str], None]


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, markup=False)
    try:
        settings = CurationSettings(**{field.name: getattr(options, field.name) for field in fields(CurationSettings)})
        curated = asyncio.run(_curate(options, settings, lambda text: console.print(text, soft_wrap=True)))
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_results(curated, options.output)
    draw_report(curated, options.output / PICTURE)
    console.print(funnel_table(curated))
    if any(candidate.pass_rate is not None for candidate in curated.candidates):
        console.print(difficulty_table(curated))
    console.print(balance_table(curated))
    console.print(f"{options.output}/prompts.jsonl can be named in prompts.files", soft_wrap=True)
    if curated.num_open:
        print(f"error: {curated.num_open} prompts are not done; run the same command again", file=sys.stderr)
    return 1 if curated.num_open else 0


async def _curate(options: argparse.Namespace, settings: CurationSettings, say: Say) -> Curated:
    problems = Problems(mode="skip")
    questions = _questions(options, settings, problems)
    evaluation = read_files([str(path) for path in options.evaluation], problems)
    options.output.mkdir(parents=True, exist_ok=True)
    async with open_answerer(options, options.output, say) as answerer:
        if answerer is None and options.subjects_by == "model":
            raise ConfigError("--subjects-by model needs --model")
        rewards = RewardConfig(answer_extraction=options.answer_extraction, num_workers=options.num_workers)
        with Scorer(rewards) as scorer:
            sampler = Sampler(answerer, scorer, options.output / SAMPLES, say) if answerer else None
            tagger = answerer if options.subjects_by == "model" else None
            pipeline = Pipeline(settings=settings, sampler=sampler, subjects_by=tagger, say=say)
            return await pipeline.run(questions, evaluation, problems.found)


def _questions(options: argparse.Namespace, settings: CurationSettings, problems: Problems) -> list[Question]:
    questions = read_files([str(path) for path in options.prompts], problems)
    for name in options.gym:
        task, _, count = name.partition(":")
        if not count.isdecimal():
            raise ConfigError(f"--gym must be TASK:COUNT, got {name!r}")
        questions += draws(task, {}, split="train", seed=settings.seed, limit=int(count))
    if not questions:
        raise DataError("no prompts: name files with --prompts, or reasoning-gym tasks with --gym TASK:COUNT")
    identifiers: set[str] = set()
    for question in questions:
        if question.id in identifiers:
            raise DataError(f"prompt ids must be unique over all files; {question.id!r} ({question.where}) came before")
        identifiers.add(question.id)
    return questions


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Curate prompts for RL (docs/curation.md).")
    parser.add_argument(
        "--prompts", type=Path, nargs="+", default=[], metavar="FILE", help="as prompts.files takes them"
    )
    parser.add_argument("--gym", nargs="+", default=[], metavar="TASK:COUNT", help="reasoning-gym prompts beside them")
    parser.add_argument("--evaluation", type=Path, nargs="+", default=[], metavar="FILE", help="prompts to keep out")
    parser.add_argument("--output", type=Path, required=True, help="a directory; samples found there are kept")
    model = parser.add_argument_group("who answers (without --model, difficulty and guesses are left out)")
    add_answerer_options(model)
    model.add_argument("--subjects-by", choices=("rules", "model"), default="rules", help="who tags (%(default)s)")
    model.add_argument(
        "--answer-extraction", default=RewardConfig().answer_extraction, help="as reward.answer_extraction"
    )
    model.add_argument("--num-workers", type=int, default=1, help="processes that compare answers (%(default)s)")
    rules = parser.add_argument_group("rules, with their defaults")
    for name, default in _defaults().items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            rules.add_argument(option, action=argparse.BooleanOptionalAction, default=default)
        else:
            shown = str(default).replace("\n", " ").replace("%", "%%")
            rules.add_argument(option, type=type(default), default=default, help=shown)
    return parser


def _defaults() -> dict[str, Any]:
    return {field.name: field.default for field in fields(CurationSettings)}


if __name__ == "__main__":
    sys.exit(main())
