"""All problems through the funnel, resumable: `results.jsonl` grows by a line per problem, and the next run goes on
from it; `problems.jsonl`, `dropped.jsonl` and the table are made of it at the end."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.table import Table

from megatron_k15.errors import DataError
from megatron_k15.json_lines import read_appended, write_whole
from megatron_k15.sandbox.errors import SandboxError
from megatron_k15.test_cases.generation import Generation
from megatron_k15.test_cases.generators import EndpointError
from megatron_k15.test_cases.outcome import STAGES, Outcome
from megatron_k15.test_cases.problems import SourceProblem

RESULTS, KEPT, DROPPED = "results.jsonl", "problems.jsonl", "dropped.jsonl"


def run_funnel(
    generation: Generation,
    problems: Sequence[SourceProblem],
    output_dir: Path,
    *,
    num_threads: int,
    say: Callable[[str], None],
) -> tuple[list[Outcome], int]:
    """Outcomes in the problems' order, and how many problems nothing could be found out about.

    Raises:
        DataError: the directory holds something else.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / RESULTS
    known = _read_results(path)
    done = {
        p.id: known[p.id] for p in problems if p.id in known and known[p.id].fingerprint == generation.fingerprint(p)
    }
    if done:
        say(f"{len(done)} of {len(problems)} problems were done before")
    open_problems = [problem for problem in problems if problem.id not in done]
    with ThreadPoolExecutor(num_threads) as threads, path.open("a", encoding="utf-8") as results:
        futures = {threads.submit(generation.generate, problem): problem for problem in open_problems}
        for future in as_completed(futures):
            problem = futures[future]
            try:
                outcome = future.result()
            except (EndpointError, SandboxError) as error:
                say(f"{problem.id}: not done: {error}")
                continue
            results.write(json.dumps(outcome.to_json()) + "\n")
            results.flush()
            done[problem.id] = outcome
            say(f"{problem.id}: {outcome.reason.replace('_', ' ')}: {outcome.detail}")
    outcomes = [done[problem.id] for problem in problems if problem.id in done]
    _write_sets(output_dir, outcomes)
    return outcomes, len(problems) - len(outcomes)


def _read_results(path: Path) -> dict[str, Outcome]:
    """The newest outcome of each problem."""
    try:
        outcomes = [Outcome.from_json(row) for row in read_appended(path)]
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} must hold results of this program; {error}. Name another --output") from error
    return {outcome.id: outcome for outcome in outcomes}


def _write_sets(output_dir: Path, outcomes: Iterable[Outcome]) -> None:
    kept = [outcome.prompt for outcome in outcomes if outcome.prompt is not None]
    dropped = [
        {"id": outcome.id, "reason": outcome.reason, "detail": outcome.detail}
        for outcome in outcomes
        if outcome.prompt is None
    ]
    write_whole(output_dir / KEPT, kept)
    write_whole(output_dir / DROPPED, dropped)


def funnel_table(outcomes: Sequence[Outcome]) -> Table:
    """Problems left after each stage, and why the others are gone."""
    reasons = Counter(outcome.reason for outcome in outcomes)
    table = Table(title="test-case generation")
    for name, justify in (("stage", "left"), ("problems", "right"), ("share", "right"), ("dropped here", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    left = len(outcomes)
    table.add_row("all", str(left), "", "")
    for stage, dropped_for in STAGES:
        dropped = {reason: reasons[reason] for reason in dropped_for if reasons[reason]}
        left -= sum(dropped.values())
        why = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in dropped.items())
        table.add_row(stage, str(left), f"{left / max(len(outcomes), 1):.0%}", why)
    return table
