"""What several seeds of two arms came to: curves, and the difference at the end with its interval.

Legend: S seeds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

STUDENT_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
"""97.5% points for 1 to 9 degrees of freedom: one less than there are seeds. The last serves for more seeds, too."""


class Interval(NamedTuple):
    mean: float
    half_width: float
    """95%, by Student's t over seeds; infinite for a single one."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Of one arm."""

    label: str
    accuracy: tuple[tuple[float, ...], ...]
    """[S][iterations] of the responses trained on."""
    tokens: tuple[tuple[float, ...], ...]
    held_out: tuple[float, ...]
    """[S] greedy accuracy on the test problems at the end."""
    held_out_tokens: tuple[float, ...]


def summarize(arms: Mapping[str, Sequence[Path]]) -> tuple[Curves, Curves]:
    """Control and variant, from their runs' metrics."""
    control, variant = (_curves(label, run_dirs) for label, run_dirs in arms.items())
    return control, variant


def _curves(label: str, run_dirs: Sequence[Path]) -> Curves:
    runs = [_records(run_dir) for run_dir in run_dirs]
    iterations = [[record for record in run if record["kind"] == "iteration"] for run in runs]
    last = [[record for record in run if record["kind"] == "evaluation"][-1] for run in runs]
    return Curves(
        label=label,
        accuracy=tuple(tuple(record["reward/accuracy"] for record in run) for run in iterations),
        tokens=tuple(tuple(record["rollout/mean_response_tokens"] for record in run) for run in iterations),
        held_out=tuple(record["evaluation/accuracy"] for record in last),
        held_out_tokens=tuple(record["evaluation/mean_response_tokens"] for record in last),
    )


def _records(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def interval(values_S: Sequence[float]) -> Interval:
    if len(values_S) < 2:
        return Interval(fmean(values_S), float("inf"))
    factor = STUDENT_T[min(len(values_S) - 2, len(STUDENT_T) - 1)]
    return Interval(fmean(values_S), factor * stdev(values_S) / sqrt(len(values_S)))


def difference(control_S: Sequence[float], variant_S: Sequence[float]) -> Interval:
    """Variant minus control, seed by seed: the same seed draws the same first problems."""
    return interval([ours - theirs for theirs, ours in zip(control_S, variant_S, strict=True)])


def area(curves: Sequence[Sequence[float]]) -> list[float]:
    """[S] mean over a run's iterations: how early it learned."""
    return [fmean(curve) for curve in curves]


def results_table(
    outcomes: Mapping[str, tuple[Curves, Curves]], claims: Mapping[str, str], seconds: Mapping[str, float]
) -> str:
    header = ("ablation", "control", "variant", "difference at the end", "of the run's mean", "tokens")
    lines = [f"| {' | '.join(header)} |", "| --- | --- | --- | --- | --- | --- |"]
    for name, (control, variant) in outcomes.items():
        end = difference(control.held_out, variant.held_out)
        mean = difference(area(control.accuracy), area(variant.accuracy))
        lines.append(
            f"| {name}: {claims[name]} | {control.label}: {_shown(interval(control.held_out))} | "
            f"{variant.label}: {_shown(interval(variant.held_out))} | {_shown(end, sign=True)} | "
            f"{_shown(mean, sign=True)} | {fmean(control.held_out_tokens):.0f} / {fmean(variant.held_out_tokens):.0f} |"
        )
    seeds, spent = len(next(iter(outcomes.values()))[0].held_out), list(seconds.values())
    lines += [
        "",
        f"{seeds} seeds; intervals 95% by Student's t over seeds. Control, variant and tokens: greedy, on held-out "
        "problems, after the last iteration. The run's mean is that of the responses trained on, over all iterations. "
        f"{len(spent)} runs, {sum(spent) / 60:.0f} minutes, {fmean(spent):.0f} s each.",
    ]
    return "\n".join(lines)


def _shown(found: Interval, *, sign: bool = False) -> str:
    return f"{found.mean:{'+' if sign else ''}.3f} ± {found.half_width:.3f}"


def draw(outcome: tuple[Curves, Curves], path: Path, *, title: str, measures: Sequence[str]) -> None:
    """Mean over seeds and each seed's own curve, faint."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(measures), figsize=(5 * len(measures) + 1, 3.6), layout="constrained", squeeze=False
    )
    for place, measure in zip(axes[0], measures, strict=True):
        for color, arm in zip(("tab:gray", "tab:blue"), outcome, strict=True):
            curves = arm.accuracy if measure == "accuracy" else arm.tokens
            for curve in curves:
                place.plot(curve, color=color, alpha=0.25, linewidth=1)
            mean = [fmean(values) for values in zip(*curves, strict=True)]
            place.plot(mean, color=color, linewidth=2, label=arm.label)
        place.set(xlabel="iteration", ylabel="accuracy" if measure == "accuracy" else "mean tokens")
        place.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
