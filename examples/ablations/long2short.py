"""The four ways of long2short over several seeds (§2.4, Fig. 7), from one recipe's RL model.

    python examples/ablations/long2short.py [--seeds 3] [--recipe runs/recipe] [--run-dir runs/ablations/long2short]

Seed 0 is the recipe's own run. A second call goes on where the first stopped.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "recipe"))

from outcome import Interval, interval  # noqa: E402
from recipe import Recipe  # noqa: E402
from report import LONG2SHORT, TASK  # noqa: E402
from stages import ROOT, Runner, StageError  # noqa: E402

Points = Mapping[str, Sequence[tuple[float, float]]]
"""Method → (pass@1, mean tokens) per seed."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Long2short over seeds.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", type=Path, default=ROOT / "runs" / "recipe")
    parser.add_argument("--run-dir", type=Path, default=ROOT / "runs" / "ablations" / "long2short")
    options = parser.parse_args(arguments)
    recipe, run_dir = options.recipe.resolve(), options.run_dir.resolve()
    if not (recipe / "evaluation" / "long2short_rl" / "results.json").exists():
        print(f"error: {recipe} is not a whole run of the recipe: make recipe", file=sys.stderr)
        return 1
    seconds = 0.0
    try:
        for seed in range(1, options.seeds):
            directory = run_dir / f"seed_{seed}"
            runner = Runner(Recipe(directory, seed=seed, recipe_dir=recipe).long2short_stages(), directory)
            runner.run()
            seconds += sum(runner.seconds().values())
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    runs = [recipe, *(run_dir / f"seed_{seed}" for seed in range(1, options.seeds))]
    points = {name: _points(runs, name) for name in LONG2SHORT}
    table = (
        results_table(points)
        + f"\n\n{len(runs)} seeds, of which the first is the recipe's; {seconds / 60:.0f} minutes."
    )
    (run_dir / "results.md").write_text(table + "\n")
    draw(points, run_dir / "long2short.png")
    print(f"{table}\n\nwrote {run_dir}/results.md and long2short.png")
    return 0


def _points(runs: Sequence[Path], name: str) -> list[tuple[float, float]]:
    """The RL model that all start from was evaluated once, by the recipe."""
    found = []
    for run in runs:
        path = run / "evaluation" / name / "results.json"
        if path.exists():
            result = json.loads(path.read_text())["tasks"][TASK]
            found.append((result["pass@1"]["value"], result["mean_tokens"]["value"]))
    return found


def results_table(points: Points) -> str:
    lines = ["| method | pass@1 | mean tokens | seeds |", "| --- | --- | --- | ---: |"]
    for name, of_seeds in points.items():
        accuracy, tokens = (interval([point[side] for point in of_seeds]) for side in (0, 1))
        lines.append(f"| {LONG2SHORT[name]} | {_shown(accuracy, 3)} | {_shown(tokens, 1)} | {len(of_seeds)} |")
    return "\n".join(lines)


def _shown(found: Interval, digits: int) -> str:
    text = f"{found.mean:.{digits}f}"
    return text if found.half_width == float("inf") else f"{text} ± {found.half_width:.{digits}f}"


def draw(points: Points, output: Path) -> None:
    """Every seed's point, and a ring around each method's mean."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 4), layout="constrained")
    for index, (name, of_seeds) in enumerate(points.items()):
        accuracy, tokens = [point[0] for point in of_seeds], [point[1] for point in of_seeds]
        axes.scatter(tokens, accuracy, color=f"C{index}", s=16, label=LONG2SHORT[name])
        axes.scatter(fmean(tokens), fmean(accuracy), facecolors="none", edgecolors=f"C{index}", s=110)
    title = "long2short, several seeds"
    axes.set(xlabel="mean tokens per answer", ylabel="pass@1", title=title, xlim=(0, None), ylim=(0, 1))
    axes.legend(frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(output, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
