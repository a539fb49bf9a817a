"""The report as a picture: the funnel, the difficulty histogram, the subjects before and after."""

from pathlib import Path
from typing import Any

from megatron_k15.curation.outcome import STAGES, Curated
from megatron_k15.curation.report import reason_counts, report_numbers, stage_counts

KEPT, GONE = "#2a6f97", "#c9d6df"
MAX_SUBJECTS = 14


def draw_report(curated: Curated, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(18, 5.2), width_ratios=(1.5, 1, 1), layout="constrained")
    _funnel(axes[0], curated)
    _difficulty(axes[1], report_numbers(curated)["difficulty"])
    _subjects(axes[2], report_numbers(curated)["disciplines"])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _funnel(axes: Any, curated: Curated) -> None:
    """A bar per stage; what was dropped there, and why, behind it."""
    counts, reasons = stage_counts(curated), reason_counts(curated)
    total = max(counts[0][1], 1)
    places = range(len(counts))
    before = [counts[0][1], *(count for _, count in counts[:-1])]
    axes.barh(places, before, color=GONE)
    axes.barh(places, [count for _, count in counts], color=KEPT)
    axes.set_yticks(places, [stage for stage, _ in counts])
    axes.invert_yaxis()
    for place, (_, left) in zip(places, counts, strict=True):
        dropped_for = STAGES[place - 1][1] if place else ()
        why = [f"−{reasons[reason]} {reason.replace('_', ' ')}" for reason in dropped_for if reasons[reason]]
        lines = "\n".join(", ".join(why[start : start + 2]) for start in range(0, len(why), 2))
        text = f"{left}  " if not lines else f"{left}   "
        axes.text(before[place] + total * 0.015, place, text + lines, va="center", fontsize=8)
    axes.set(title="prompts left after each step", xlim=(0, total * 1.75))
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= total])


def _difficulty(axes: Any, numbers: dict[str, list]) -> None:
    places = range(len(numbers["bins"]))
    axes.bar(places, numbers["sampled"], color=GONE, width=0.9, label="sampled")
    axes.bar(places, numbers["kept"], color=KEPT, width=0.9, label="kept")
    axes.set_xticks(places, numbers["bins"])
    axes.set(title="difficulty", xlabel="1 − pass rate (1.0: never solved)", ylabel="prompts")
    axes.legend(frameon=False)
    if not any(numbers["sampled"]):
        axes.set(ylim=(0, 1), yticks=[])
        axes.text(0.5, 0.5, "not sampled", ha="center", color="gray", transform=axes.transAxes)


def _subjects(axes: Any, subjects: dict[str, dict[str, int]]) -> None:
    """The largest disciplines by name, the others together."""
    rows = list(subjects.items())
    if len(rows) > MAX_SUBJECTS:
        rest = rows[MAX_SUBJECTS - 1 :]
        summed = {key: sum(counts[key] for _, counts in rest) for key in ("read", "kept")}
        rows = [*rows[: MAX_SUBJECTS - 1], (f"{len(rest)} others", summed)]
    places = range(len(rows))
    axes.barh(places, [counts["read"] for _, counts in rows], color=GONE, label="read")
    axes.barh(places, [counts["kept"] for _, counts in rows], color=KEPT, label="kept")
    axes.set_yticks(places, [name for name, _ in rows])
    axes.invert_yaxis()
    largest = max((counts["read"] for _, counts in rows), default=1)
    for place, (_, counts) in zip(places, rows, strict=True):
        axes.text(counts["read"] + largest * 0.015, place, f"{counts['kept']}", va="center", fontsize=8)
    axes.set(title="disciplines", xlabel="prompts (number: kept)")
    axes.legend(frameon=False, loc="lower right")
