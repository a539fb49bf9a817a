"""Draw the curves of one or several runs side by side, and say what changed, from their metrics.jsonl.

python tools/plot_curves.py RUN_DIR … --output curves.png
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_k15.errors import DataError, K15Error

Record = dict[str, Any]
KIND = "reward/accuracy_"
DASHES = ("--", ":", "-.")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw the curves of runs, and say what changed.")
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")
    options = parser.parse_args(arguments)
    try:
        runs = {_name(path, options.run_dirs): read_records(path) for path in options.run_dirs}
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, records in runs.items():
        print(describe(name, records))
    draw(runs, options.output)
    print(f"wrote {options.output}")
    return 0


def _name(path: Path, others: Sequence[Path]) -> str:
    """The folder's name, or its whole path where two share it."""
    names = [other.resolve().name for other in others]
    return path.resolve().name if names.count(path.resolve().name) == 1 else str(path)


def read_records(run_dir: Path) -> list[Record]:
    path = run_dir / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
    except OSError as error:
        raise DataError(f"a run directory has a metrics.jsonl; {run_dir} has none ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path} must hold one JSON object per line: {error}") from error
    if not records:
        raise DataError(f"{path} is empty: the run has not finished an iteration or evaluation yet")
    return records


def of_kind(records: Sequence[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]


def describe(name: str, records: Sequence[Record]) -> str:
    """One line: the first and the last evaluation, their paired difference, the minutes of all iterations."""
    minutes = sum(record["time/iteration_seconds"] for record in of_kind(records, "iteration")) / 60
    text = f"{name}: {len(of_kind(records, 'iteration'))} iterations, {minutes:.1f} min"
    evaluations = of_kind(records, "evaluation")
    if len(evaluations) > 1:
        first, last = evaluations[0], evaluations[-1]
        text += (
            f", held-out accuracy {first['evaluation/accuracy']:.3f} -> {last['evaluation/accuracy']:.3f}, change "
            f"{last['evaluation/change']:+.3f} (paired 95% interval {last['evaluation/change_low']:+.3f} to "
            f"{last['evaluation/change_high']:+.3f})"
        )
    return text


def draw(runs: dict[str, list[Record]], output: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (held_out, reward, length) = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    held_out.set_visible(any(of_kind(records, "evaluation") for records in runs.values()))
    for name, records in runs.items():
        evaluations, iterations = of_kind(records, "evaluation"), of_kind(records, "iteration")
        if evaluations:
            steps = [record["iteration"] for record in evaluations]
            (line,) = held_out.plot(steps, _column(evaluations, "evaluation/accuracy"), marker="o", label=name)
            low, high = (_column(evaluations, f"evaluation/accuracy_{end}") for end in ("low", "high"))
            held_out.fill_between(steps, low, high, alpha=0.15, color=line.get_color())
        (line,) = reward.plot(_column(iterations, "iteration"), _column(iterations, "reward/accuracy"), label=name)
        for kind, dashes in zip(_kinds(iterations), DASHES, strict=False):
            # A metric of an iteration without such prompts is not there.
            seen = [record for record in iterations if f"{KIND}{kind}" in record]
            label, color = f"{name}: {kind}", line.get_color()
            steps, rates = _column(seen, "iteration"), _column(seen, f"{KIND}{kind}")
            reward.plot(steps, rates, dashes, marker=".", label=label, color=color)
        length.plot(_column(iterations, "iteration"), _column(iterations, "rollout/mean_response_tokens"), label=name)
    titles = {
        held_out: "held-out accuracy, greedy, 95% interval",
        reward: "accuracy of sampled responses",
        length: "response tokens, mean",
    }
    for axes, title in titles.items():
        axes.set(title=title, xlabel="iteration")
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend()
    figure.savefig(output, dpi=110)
    pyplot.close(figure)


def _kinds(iterations: Sequence[Record]) -> list[str]:
    """Kinds of prompts, where a run mixes several: `math`, `code`."""
    return sorted({key.removeprefix(KIND) for record in iterations for key in record if key.startswith(KIND)})


def _column(records: Sequence[Record], key: str) -> list[float]:
    # A number that JSON does not have was written as null: a gap in the curve.
    return [float("nan") if record[key] is None else record[key] for record in records]


if __name__ == "__main__":
    sys.exit(main())
