"""What curation did: files, numbers, the terminal's tables."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table

from megatron_k15.curation.outcome import STAGES, Candidate, Curated
from megatron_k15.json_lines import write_whole

PROMPTS, DROPPED, REPORT = "prompts.jsonl", "dropped.jsonl", "report.json"
NUM_BINS = 10


def write_results(curated: Curated, output_dir: Path) -> None:
    """The set as `prompts.files` takes it, a reason for every prompt that is not in it, and the report's numbers."""
    write_whole(output_dir / PROMPTS, [_row(candidate) for candidate in curated.kept])
    bad = [{"id": row.partition(": ")[0], "reason": "bad_row", "detail": row} for row in curated.bad_rows]
    gone = [
        {"id": one.question.id, "reason": one.drop.reason, "detail": one.drop.detail, "where": one.question.where}
        for one in curated.candidates
        if one.drop is not None
    ]
    write_whole(output_dir / DROPPED, [*bad, *gone])
    text = json.dumps(report_numbers(curated), ensure_ascii=False, indent=1)
    (output_dir / REPORT).write_text(text + "\n", encoding="utf-8")


def _row(candidate: Candidate) -> dict[str, Any]:
    question = candidate.question
    asked = {"messages": list(question.messages)} if question.messages else {"prompt": question.text}
    row: dict[str, Any] = {
        "id": question.id,
        **asked,
        "answer": question.answer,
        "task": question.task,
        "tags": list(question.tags),
    }
    if question.difficulty is not None:
        row["difficulty"] = question.difficulty
    if question.metadata:
        row["metadata"] = dict(question.metadata)
    return row


def report_numbers(curated: Curated) -> dict[str, Any]:
    """Counts by stage, reason, domain and discipline, and the difficulty histogram: what tables and picture show."""
    reasons = reason_counts(curated)
    rated = [one for one in curated.candidates if one.pass_rate is not None]
    return {
        "num_read": len(curated.candidates) + len(curated.bad_rows),
        "num_kept": len(curated.kept),
        "num_open": curated.num_open,
        "dropped": dict(reasons.most_common()),
        "left_after": dict(stage_counts(curated)),
        "difficulty": {
            "bins": [f"{index / NUM_BINS:.1f}" for index in range(NUM_BINS + 1)],
            "sampled": histogram(rated),
            "kept": histogram([one for one in rated if one.is_in]),
        },
        "domains": _subjects(curated, "domain"),
        "disciplines": _subjects(curated, "discipline"),
    }


def reason_counts(curated: Curated) -> Counter[str]:
    reasons: Counter[str] = Counter(one.drop.reason for one in curated.candidates if one.drop is not None)
    if curated.bad_rows:
        reasons["bad_row"] = len(curated.bad_rows)
    return reasons


def stage_counts(curated: Curated) -> list[tuple[str, int]]:
    """Prompts left after each stage; `read` first."""
    reasons = reason_counts(curated)
    left = len(curated.candidates) + len(curated.bad_rows)
    counts = [("read", left)]
    for stage, dropped_for in STAGES:
        left -= sum(reasons[reason] for reason in dropped_for)
        counts.append((stage, left))
    return counts


def histogram(candidates: list[Candidate]) -> list[int]:
    """Prompts by difficulty 1 − pass rate, rounded to tenths: 0.0 (easy) to 1.0 (never solved)."""
    tenths = Counter(round((1 - (one.pass_rate or 0.0)) * NUM_BINS) for one in candidates)
    return [tenths[index] for index in range(NUM_BINS + 1)]


def _subjects(curated: Curated, name: str) -> dict[str, dict[str, int]]:
    """By subject: prompts that were read, prompts kept; the largest first."""
    read = Counter(getattr(one, name) for one in curated.candidates)
    kept = Counter(getattr(one, name) for one in curated.kept)
    return {subject: {"read": count, "kept": kept[subject]} for subject, count in read.most_common()}


def funnel_table(curated: Curated) -> Table:
    table = Table(title="prompt curation")
    for name, right in (("stage", False), ("prompts", True), ("share", True), ("dropped here", False)):
        table.add_column(name, justify="right" if right else "left")
    reasons, counts = reason_counts(curated), stage_counts(curated)
    total = max(counts[0][1], 1)
    table.add_row("read", str(counts[0][1]), "", "")
    for (stage, left), (_, dropped_for) in zip(counts[1:], STAGES, strict=True):
        why = ", ".join(f"{reasons[reason]} {reason.replace('_', ' ')}" for reason in dropped_for if reasons[reason])
        table.add_row(stage, str(left), f"{left / total:.0%}", why)
    return table


def balance_table(curated: Curated) -> Table:
    """Disciplines, read and kept, with shares and mean difficulty of the kept."""
    table = Table(title="subjects")
    table.add_column("domain")
    table.add_column("discipline")
    for name in ("read", "kept", "share of kept", "mean difficulty"):
        table.add_column(name, justify="right")
    total = max(len(curated.kept), 1)
    domains = {one.discipline: one.domain for one in curated.candidates}
    for discipline, counts in _subjects(curated, "discipline").items():
        rated = [one.pass_rate for one in curated.kept if one.discipline == discipline and one.pass_rate is not None]
        mean = f"{1 - sum(rated) / len(rated):.2f}" if rated else "–"
        share = f"{counts['kept'] / total:.0%}"
        table.add_row(domains[discipline], discipline, str(counts["read"]), str(counts["kept"]), share, mean)
    return table


def difficulty_table(curated: Curated) -> Table:
    """A histogram in text."""
    numbers = report_numbers(curated)["difficulty"]
    table = Table(title="difficulty: 1 − pass rate")
    table.add_column("difficulty", justify="right")
    table.add_column("sampled", justify="right")
    table.add_column("kept", justify="right")
    table.add_column("")
    largest = max([*numbers["sampled"], 1])
    for low, sampled, kept in zip(numbers["bins"], numbers["sampled"], numbers["kept"], strict=True):
        width, filled = round(40 * sampled / largest), round(40 * kept / largest)
        table.add_row(low, str(sampled), str(kept), "█" * filled + "░" * (width - filled))
    return table
