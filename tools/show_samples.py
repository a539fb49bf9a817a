"""Read a run's sample trajectories in the terminal: prompt, response, how it ended, what each reward term gave.

python tools/show_samples.py RUN_DIR [--iteration N] [--count N]
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from megatron_k15.errors import DataError, K15Error
from megatron_k15.metrics.printable import printable
from megatron_k15.metrics.samples import iteration_of, sample_files


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Show the sample trajectories of a run.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--iteration", type=int, help="which iteration; the newest by default")
    parser.add_argument("--count", type=int, default=8, help="how many samples to show (8)")
    options = parser.parse_args(arguments)
    try:
        path = _choose(options.run_dir, options.iteration)
        samples = _read(path)[: options.count]
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console = Console(highlight=False, markup=False, emoji=False)
    for sample in samples:
        console.print(_panel(sample, iteration_of(path)))
    return 0


def _choose(run_dir: Path, iteration: int | None) -> Path:
    files = {iteration_of(path): path for path in sample_files(run_dir)}
    if not files:
        raise DataError(f"{run_dir} has no samples; give the run_dir of a run with metrics.num_samples_saved above 0")
    chosen = max(files) if iteration is None else iteration
    if chosen not in files:
        raise DataError(f"iteration {chosen} has no samples; {run_dir} has iterations {min(files)} to {max(files)}")
    return files[chosen]


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise DataError(f"{path} must hold one JSON object per line: {error}") from error


def _panel(sample: dict[str, Any], iteration: int) -> Panel:
    colour = "green" if sample["correct"] else "red"
    parts = "  ".join(f"{name} {value:+.3f}" for name, value in sample["parts"].items())
    ended = f"{sample['num_response_tokens']} tokens, finish reason: {sample['finish_reason']}"
    body = Group(
        Text(printable(sample["prompt"]), style="bold"),
        Text(printable(sample["response"]), style=colour),
        Text(f"reference answer: {printable(sample['reference'])}"),
        Text(f"reward {sample['reward']:+.3f} = {printable(parts)}"),
        Text(ended, style="dim"),
    )
    title = f"iteration {iteration}, {sample['prompt_id']} #{sample['sample_index']}"
    return Panel(body, title=Text(printable(title)), title_align="left", border_style=colour)


if __name__ == "__main__":
    sys.exit(main())
