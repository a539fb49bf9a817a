"""A model's results on tasks: numbers, the terminal's table, the picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from megatron_k15.prompts.question import Question
from megatron_k15.rewards.answers import extract_answer
from megatron_k15.rewards.quick_rule import quick_verdict
from megatron_k15.sampling.accuracy import Estimate, Judged, accuracies, estimate
from megatron_k15.sampling.samples import Sample
from megatron_k15.sandbox.fenced_program import extract_program

RESULTS, PICTURE = "results.json", "results.png"


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    name: str
    num_prompts: int
    num_answers: int
    """To each prompt."""
    accuracies: Mapping[str, Estimate]
    mean_tokens: Estimate
    share_cut_off: float
    """Of answers that ran into the limit of tokens."""


def task_result(
    name: str,
    questions: Sequence[Question],
    samples: Sequence[tuple[Sample, ...]],
    *,
    ks: Sequence[int],
    answer_extraction: str,
) -> TaskResult:
    judged = [
        _judged(question, of_question, answer_extraction)
        for question, of_question in zip(questions, samples, strict=True)
    ]
    return TaskResult(
        name=name,
        num_prompts=len(questions),
        num_answers=len(samples[0]),
        accuracies=accuracies(judged, ks),
        mean_tokens=estimate([fmean(sample.num_tokens for sample in one) for one in samples]),
        share_cut_off=fmean(not sample.is_whole for one in samples for sample in one),
    )


def _judged(question: Question, samples: Sequence[Sample], method: str) -> list[Judged]:
    judged = [Judged(_answer(question, sample.text, method), sample.correct) for sample in samples]
    return with_one_spelling(judged) if question.task == "math" else judged


def with_one_spelling(answers: Sequence[Judged]) -> list[Judged]:
    r"""Answers to one math problem that are equal get the text of the first of them: 0.5 and \frac12 are one vote each
    for the same. Right ones equal the reference; of others the quick rule says whether they are equal."""
    kept: list[Judged] = []
    found: list[Judged] = []
    for one in answers:
        if one.answer is None:
            found.append(one)
            continue
        like = next((other for other in kept if other.correct == one.correct and _equal(one, other)), one)
        if like is one:
            kept.append(one)
        found.append(like)
    return found


def _equal(one: Judged, other: Judged) -> bool:
    assert one.answer is not None
    assert other.answer is not None
    return one.correct or one.answer == other.answer or quick_verdict(one.answer, other.answer) is True


def _answer(question: Question, text: str, method: str) -> str | None:
    return extract_program(text) if question.task == "code" else extract_answer(text, method)


def write_results(model: str, results: Sequence[TaskResult], directory: Path) -> None:
    values = {"model": model, "tasks": {result.name: _numbers(result) for result in results}}
    new = directory / f"{RESULTS}.new"
    new.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    new.rename(directory / RESULTS)


def _numbers(result: TaskResult) -> dict[str, Any]:
    return {
        "num_prompts": result.num_prompts,
        "num_answers": result.num_answers,
        **{name: found._asdict() for name, found in result.accuracies.items()},
        "mean_tokens": result.mean_tokens._asdict(),
        "share_cut_off": result.share_cut_off,
    }


def results_table(results: Sequence[TaskResult]) -> Table:
    table = Table(box=None, pad_edge=False)
    for header in ("task", "figure", "", "95% interval"):
        table.add_column(header, justify="left" if header in ("task", "figure") else "right")
    for result in results:
        table.add_row(f"{result.name}: {result.num_prompts} prompts, {result.num_answers} answers each")
        for name, found in result.accuracies.items():
            table.add_row("", name, f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}")
        found = result.mean_tokens
        table.add_row("", "mean tokens", f"{found.value:.1f}", f"{found.low:.1f} to {found.high:.1f}")
        table.add_row("", "cut off", f"{result.share_cut_off:.3f}")
    return table


def draw_results(model: str, results: Sequence[TaskResult], path: Path) -> None:
    """Bars per task with their 95% intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = list(results[0].accuracies)
    figure, axes = pyplot.subplots(figsize=(2.5 + 1.2 * len(results) * len(names), 4), layout="constrained")
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        found = [result.accuracies[name] for result in results]
        places = [place + (index - (len(names) - 1) / 2) * width for place in range(len(results))]
        errors = [[one.value - one.low for one in found], [one.high - one.value for one in found]]
        axes.bar(places, [one.value for one in found], width * 0.92, yerr=errors, capsize=3, label=name)
    axes.set_xticks(range(len(results)), [f"{one.name}\n{one.mean_tokens.value:.0f} tokens" for one in results])
    axes.set(ylim=(0, 1), ylabel="share of prompts", title=model)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
