"""What the recipe's stages came to: a table, accuracy and length over RL (the report's Fig. 5), accuracy against tokens
for the ways of long2short (Fig. 7)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

LONG2SHORT = {"rl": "RL", "merge": "merge", "shortest": "shortest RS", "dpo": "DPO", "long2short_rl": "long2short RL"}
TASK = "test_problems"


def write_report(run_dir: Path, evaluated: Sequence[str], seconds: Mapping[str, float]) -> str:
    """Write report.md, rl.png and long2short.png; returns the table."""
    results = {name: _result(run_dir, name) for name in evaluated}
    table = _table(results, seconds)
    (run_dir / "report.md").write_text(table + "\n")
    draw_rl(run_dir / "rl", run_dir / "rl.png")
    draw_long2short(results, run_dir / "long2short.png")
    return f"{table}\n\nwrote {run_dir}/report.md, rl.png and long2short.png"


def _result(run_dir: Path, name: str) -> dict[str, Any]:
    return json.loads((run_dir / "evaluation" / name / "results.json").read_text())["tasks"][TASK]


def _table(results: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, float]) -> str:
    """Markdown. A stage's seconds are those of all it took, from data to evaluation."""
    lines = ["| stage | pass@1 | maj@4 | mean tokens | seconds |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, result in results.items():
        one, majority = result["pass@1"], result["maj@4"]
        spent = sum(value for stage, value in seconds.items() if stage in (name, f"{name}_rows", f"evaluate_{name}"))
        lines.append(
            f"| {name} | {one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f}) | {majority['value']:.3f} | "
            f"{result['mean_tokens']['value']:.1f} | {spent:.0f} |"
        )
    other = [name for name in seconds if name in ("data", "tokenizer", "start") or name.startswith("corpus_")]
    lines.append(f"| data, tokenizer, corpora | | | | {sum(seconds[name] for name in other):.0f} |")
    lines.append(f"| all | | | | {sum(seconds.values()):.0f} |")
    return "\n".join(lines)


def read_iterations(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "iteration"]


def draw_rl(run_dir: Path, output: Path) -> None:
    """Accuracy and length of the sampled responses, per iteration, and from where on the run was another one."""
    pyplot = _pyplot()
    figure, (accuracy, length) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    records = read_iterations(run_dir)
    iterations = [record["iteration"] for record in records]
    accuracy.plot(iterations, [record["reward/accuracy"] for record in records])
    length.plot(iterations, [record["rollout/mean_response_tokens"] for record in records], color="tab:orange")
    accuracy.set(xlabel="iteration", ylabel="accuracy", title="accuracy of the responses trained on", ylim=(0, 1))
    length.set(xlabel="iteration", ylabel="tokens", title="their mean length", ylim=(0, None))
    for iteration, what in _changes(run_dir).items():
        for axes in (accuracy, length):
            axes.axvline(iteration - 0.5, color="gray", linewidth=1, linestyle=":")
            axes.text(iteration - 0.2, 0.02, what, rotation=90, fontsize=7, transform=axes.get_xaxis_transform())
    _save(pyplot, figure, (accuracy, length), output)


def _changes(run_dir: Path) -> dict[int, str]:
    """Iteration → what is different from it on."""
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    found = {}
    if config["prompts"]["curriculum"]:
        found[config["prompts"]["curriculum_transition_iteration"]] = "hard problems alone"
    if config["reward"]["length_weight"]:
        found[config["reward"]["length_warmup_iterations"]] = "length penalty"
    return found


def draw_long2short(results: Mapping[str, Mapping[str, Any]], output: Path) -> None:
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(5.5, 4), layout="constrained")
    for name, label in LONG2SHORT.items():
        one, tokens = results[name]["pass@1"], results[name]["mean_tokens"]["value"]
        error = [[one["value"] - one["low"]], [one["high"] - one["value"]]]
        axes.errorbar([tokens], [one["value"]], yerr=error, fmt="o", capsize=3, label=label)
    axes.set(xlabel="mean tokens per answer", ylabel="pass@1", title="long2short", xlim=(0, None), ylim=(0, 1))
    axes.legend(frameon=False, loc="lower left")
    _save(pyplot, figure, (axes,), output)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(pyplot: Any, figure: Any, axes: Sequence[Any], output: Path) -> None:
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    figure.savefig(output, dpi=130)
    pyplot.close(figure)
