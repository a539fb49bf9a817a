"""Prompts → sampled and judged answers → rows of training data, with a report: what the building tools have in common.

Answers lie in `samples.jsonl` beside the rows; tools that ask alike may share the file, and ask nothing twice.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from megatron_k15.config import RewardConfig
from megatron_k15.errors import DataError, K15Error
from megatron_k15.json_lines import write_whole
from megatron_k15.prompts.files import read_files
from megatron_k15.prompts.question import Question
from megatron_k15.rewards.score import Scorer
from megatron_k15.rows.problems import Problems
from megatron_k15.sampling.answerers import add_answerer_options, open_answerer
from megatron_k15.sampling.answering import Ask
from megatron_k15.sampling.choosing import Choose, Row
from megatron_k15.sampling.samples import SAMPLES, Sample, Sampler, as_prompt


@dataclass(frozen=True, kw_only=True)
class Built:
    rows: tuple[Row, ...]
    numbers: Mapping[str, Any]
    """The report."""
    num_open: int
    """Prompts that nobody answered: run again."""


def parser(description: str, *, num_samples: int) -> argparse.ArgumentParser:
    """Options of every building tool; the caller adds its own."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--prompts", type=Path, nargs="+", required=True, metavar="FILE", help="as prompts.files takes")
    made.add_argument("--output", type=Path, required=True, metavar="FILE.jsonl", help="the rows; a report lies beside")
    made.add_argument("--samples", type=Path, metavar="FILE", help=f"answers known so far ({SAMPLES} beside the rows)")
    add_answerer_options(made.add_argument_group("who answers"))
    how = made.add_argument_group("how")
    how.add_argument("--num-samples", type=int, default=num_samples, help="answers per prompt (%(default)s)")
    how.add_argument("--temperature", type=float, default=1.0)
    how.add_argument("--max-tokens", type=int, default=512, help="of an answer (%(default)s)")
    how.add_argument("--seed", type=int, default=0)
    how.add_argument("--instruction", default="{prompt}", help="put around each question")
    how.add_argument("--answer-extraction", default=RewardConfig().answer_extraction)
    how.add_argument("--num-workers", type=int, default=1, help="processes that compare answers (%(default)s)")
    return made


def build(
    options: argparse.Namespace,
    choose: Choose,
    *,
    asks: Mapping[str, str] | None = None,
    more_numbers: Callable[[Sequence[Row]], Mapping[str, Any]] = lambda rows: {},
) -> int:
    """Sample, choose, write rows and report; returns the exit status.

    Args:
        asks: instructions by name, each asked `--num-samples` times; None takes `--instruction`.
        more_numbers: for the report, of the rows.
    """
    console = Console(highlight=False, markup=False)
    try:
        built = asyncio.run(
            _build(
                options,
                choose,
                asks or {"answers": options.instruction},
                lambda text: console.print(text, soft_wrap=True),
            )
        )
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    numbers = {**built.numbers, **more_numbers(built.rows)}
    write_whole(options.output, built.rows)
    report = options.output.with_suffix(".report.json")
    report.write_text(json.dumps(numbers, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    console.print(_table(numbers))
    console.print(f"wrote {options.output} and {report}", soft_wrap=True)
    if built.num_open:
        print(f"error: {built.num_open} prompts are not done; run the same command again", file=sys.stderr)
    return 1 if built.num_open else 0


async def _build(
    options: argparse.Namespace, choose: Choose, asks: Mapping[str, str], say: Callable[[str], None]
) -> Built:
    questions = read_questions(options.prompts)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    path = options.samples or options.output.with_name(SAMPLES)
    rewards = RewardConfig(answer_extraction=options.answer_extraction, num_workers=options.num_workers)
    async with open_answerer(options, options.output.parent, say) as answerer:
        if answerer is None:
            raise DataError("nobody answers: name a model directory with --model, or an endpoint with --endpoint")
        with Scorer(rewards) as scorer:
            scorer.prepare([as_prompt(question) for question in questions])
            sampler = Sampler(answerer, scorer, path, say)
            found = [
                await sampler.samples(questions, _ask(options, instruction), name) for name, instruction in asks.items()
            ]
    return collect(questions, [_joined(per_ask) for per_ask in zip(*found, strict=True)], choose)


def _joined(per_ask: Iterable[tuple[Sample, ...] | None]) -> tuple[Sample, ...] | None:
    joined: list[Sample] = []
    for samples in per_ask:
        if samples is None:
            return None
        joined += samples
    return tuple(joined)


def _ask(options: argparse.Namespace, instruction: str) -> Ask:
    return Ask(
        instruction=instruction,
        num_answers=options.num_samples,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        seed=options.seed,
    )


def read_questions(paths: Sequence[Path]) -> list[Question]:
    """
    Raises:
        DataError: bad rows, all at once; no prompts; an id that comes twice.
    """
    problems = Problems(mode="error")
    questions = read_files([str(path) for path in paths], problems)
    problems.settle()
    if not questions:
        raise DataError(f"no prompts in {', '.join(map(str, paths))}")
    (identifier, count) = Counter(question.id for question in questions).most_common(1)[0]
    if count > 1:
        raise DataError(f"prompt ids must be unique over all files; {identifier!r} is there {count} times")
    return questions


def collect(questions: Sequence[Question], samples: Sequence[tuple[Sample, ...] | None], choose: Choose) -> Built:
    """Choose for each prompt that has its answers, and count."""
    rows: list[Row] = []
    dropped: Counter[str] = Counter()
    all_samples: list[Sample] = []
    for question, of_question in zip(questions, samples, strict=True):
        if of_question is None:
            continue
        all_samples += of_question
        choice = choose(question, of_question)
        rows += choice.rows
        if not choice.rows:
            dropped[choice.why_none] += 1
    num_open = sum(one is None for one in samples)
    correct = [sample for sample in all_samples if sample.correct]
    numbers = {
        "num_prompts": len(questions),
        "num_prompts_with_rows": len(questions) - num_open - dropped.total(),
        "num_prompts_open": num_open,
        "dropped": dict(dropped.most_common()),
        "num_rows": len(rows),
        "num_answers": len(all_samples),
        "share_correct": round(len(correct) / max(1, len(all_samples)), 4),
        "share_cut_off": round(sum(not one.is_whole for one in all_samples) / max(1, len(all_samples)), 4),
        "mean_tokens": _mean_tokens(all_samples),
        "mean_tokens_of_correct": _mean_tokens(correct),
    }
    return Built(rows=tuple(rows), numbers=numbers, num_open=num_open)


def _mean_tokens(samples: Sequence[Sample]) -> float:
    return round(sum(sample.num_tokens for sample in samples) / max(1, len(samples)), 2)


def _table(numbers: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right")
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            for inner, count in value.items():
                table.add_row(f"{name.replace('_', ' ')}: {inner}", f"{count:,}")
        else:
            table.add_row(name.replace("num_", "").replace("_", " "), f"{value:,}")
    return table
