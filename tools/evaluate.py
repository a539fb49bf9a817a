"""pass@1, pass@k and maj@k of a model on prompt files and reasoning-gym tasks, with 95% intervals and mean tokens.

python tools/evaluate.py --model DIR --prompts FILE.jsonl … --output DIR [--num-samples 4] [--k 4]

Run it again to go on after an interruption. See docs/evaluation.md.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console

from megatron_k15.config import RewardConfig
from megatron_k15.errors import ConfigError, DataError, EngineError, K15Error
from megatron_k15.prompts.gym import draws
from megatron_k15.prompts.question import Question
from megatron_k15.rewards.score import Scorer
from megatron_k15.sampling.answerers import add_answerer_options, open_answerer
from megatron_k15.sampling.answering import Ask
from megatron_k15.sampling.building import read_questions
from megatron_k15.sampling.evaluating import (
    PICTURE,
    TaskResult,
    draw_results,
    results_table,
    task_result,
    write_results,
)
from megatron_k15.sampling.samples import SAMPLES, Sample, Sampler, as_prompt

Tasks = dict[str, list[Question]]


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, markup=False)
    try:
        _check(options)
        tasks = _tasks(options)
        results = asyncio.run(_evaluate(options, tasks, lambda text: console.print(text, soft_wrap=True)))
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_results(options.model, results, options.output)
    draw_results(options.model, results, options.output / PICTURE)
    console.print(results_table(results))
    console.print(f"wrote {options.output}", soft_wrap=True)
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.temperature == 0 and options.num_samples > 1:
        raise ConfigError("--temperature 0 gives the same answer every time: set --num-samples 1")
    if beyond := [k for k in options.k if not 1 <= k <= options.num_samples]:
        raise ConfigError(f"--k must be between 1 and --num-samples ({options.num_samples}), got {beyond[0]}")


def _tasks(options: argparse.Namespace) -> Tasks:
    """A task per file, named by it, and per reasoning-gym task."""
    tasks = {path.stem: read_questions([path]) for path in options.prompts}
    if len(tasks) < len(options.prompts):
        raise ConfigError("--prompts files must have different names: each names a task")
    for text in options.gym:
        name, _, count = text.partition(":")
        if not count.isdecimal():
            raise ConfigError(f"--gym must be TASK:COUNT, got {text!r}")
        tasks[name] = _different(draws(name, {}, split="held_out", seed=options.seed, limit=int(count)))
    if not tasks:
        raise DataError("nothing to evaluate on: name files with --prompts, or reasoning-gym tasks with --gym")
    return tasks


def _different(questions: Iterable[Question]) -> list[Question]:
    """A task's draws may repeat."""
    return list({question.key: question for question in questions}.values())


async def _evaluate(options: argparse.Namespace, tasks: Tasks, say: Callable[[str], None]) -> list[TaskResult]:
    options.output.mkdir(parents=True, exist_ok=True)
    ask = Ask(
        instruction=options.instruction,
        num_answers=options.num_samples,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        seed=options.seed,
    )
    rewards = RewardConfig(answer_extraction=options.answer_extraction, num_workers=options.num_workers)
    async with open_answerer(options, options.output, say) as answerer:
        if answerer is None:
            raise ConfigError("--model must name a model directory, or with --endpoint its model")
        with Scorer(rewards) as scorer:
            scorer.prepare([as_prompt(question) for questions in tasks.values() for question in questions])
            sampler = Sampler(answerer, scorer, options.output / SAMPLES, say)
            found = {name: await sampler.samples(questions, ask, name) for name, questions in tasks.items()}
    return [
        task_result(name, questions, _all(name, found[name]), ks=options.k, answer_extraction=options.answer_extraction)
        for name, questions in tasks.items()
    ]


def _all(name: str, samples: Sequence[tuple[Sample, ...] | None]) -> list[tuple[Sample, ...]]:
    """
    Raises:
        EngineError: prompts without an answer. A result over the others would flatter or blame by chance.
    """
    whole = [one for one in samples if one is not None]
    if len(whole) < len(samples):
        raise EngineError(f"{name}: {len(samples) - len(whole)} prompts got no answer; run the same command again")
    return whole


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Evaluate a model (docs/evaluation.md).")
    parser.add_argument("--prompts", type=Path, nargs="+", default=[], metavar="FILE", help="a task each")
    parser.add_argument("--gym", nargs="+", default=[], metavar="TASK:COUNT", help="reasoning-gym tasks")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="answers found there are kept")
    add_answerer_options(parser.add_argument_group("who answers"))
    how = parser.add_argument_group("how")
    how.add_argument("--num-samples", type=int, default=4, help="answers per prompt (%(default)s)")
    how.add_argument("--k", type=int, nargs="+", default=[], help="for pass@k and maj@k, up to --num-samples")
    how.add_argument("--temperature", type=float, default=1.0)
    how.add_argument("--max-tokens", type=int, default=512, help="of an answer (%(default)s)")
    how.add_argument("--seed", type=int, default=0)
    how.add_argument("--instruction", default="{prompt}", help="put around each question")
    how.add_argument("--answer-extraction", default=RewardConfig().answer_extraction)
    how.add_argument("--num-workers", type=int, default=1, help="processes that compare answers (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
