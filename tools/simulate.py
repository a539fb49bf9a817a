"""Which token budget, and how many inference nodes? The iteration in a model of time, from speeds that were measured.

python benchmarks/long_tail.py --speeds speeds.json
python tools/simulate.py speeds.json --prompts 64 --responses 8 --median-tokens 2000 --max-tokens 32000 --gpus 32

The model and its limits: megatron_k15/simulation/. Speeds are those of one GPU (or machine): training is taken to be as
many times faster as there are GPUs, and so is decoding with as many instances.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from megatron_k15.errors import DataError, K15Error
from megatron_k15.simulation.decoding import DecodeSpeed
from megatron_k15.simulation.iteration import Setup, Speeds, simulate, tokens_per_second
from megatron_k15.simulation.lengths import LengthDistribution


class Row(NamedTuple):
    budget: int | None
    decoding: int
    training: int
    seconds: float
    utilisation: float
    tokens_per_second: float


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Predict iteration times for token budgets and numbers of instances.")
    parser.add_argument("speeds", type=Path, help="a JSON file of benchmarks/long_tail.py --speeds")
    parser.add_argument("--prompts", type=int, default=64, help="per iteration (64)")
    parser.add_argument("--responses", type=int, default=8, help="per prompt (8)")
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--median-tokens", type=float, default=2000.0, help="of a response (2000)")
    parser.add_argument("--sigma", type=float, default=0.8, help="of the logarithm of the length (0.8)")
    parser.add_argument("--max-tokens", type=int, default=32768)
    parser.add_argument("--share-at-max", type=float, default=0.01, help="responses that never stop (0.01)")
    parser.add_argument("--gpus", type=int, default=8, help="in all (8)")
    parser.add_argument("--max-concurrent", type=int, default=256, help="requests per instance (256)")
    parser.add_argument("--iterations", type=int, default=40, help="simulated per row; the second half counts (40)")
    options = parser.parse_args(arguments)
    try:
        speeds = read_speeds(options.speeds)
        lengths = LengthDistribution(
            median_tokens=options.median_tokens,
            sigma=options.sigma,
            max_tokens=options.max_tokens,
            share_at_max=options.share_at_max,
        )
        rows = predict(options, speeds, lengths)
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _show(rows)
    return 0


def read_speeds(path: Path) -> Speeds:
    """
    Raises:
        DataError: not what the benchmark writes.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Speeds(**{**values, "decode": DecodeSpeed(**values["decode"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} must hold the speeds that benchmarks/long_tail.py --speeds writes: {error}") from error


def predict(options: argparse.Namespace, speeds: Speeds, lengths: LengthDistribution) -> list[Row]:
    """All GPUs for both in turn (§2.6.3), then every split by powers of two; each with several budgets."""
    splits = [(options.gpus, options.gpus)]
    splits += [(2**n, options.gpus - 2**n) for n in range(options.gpus.bit_length()) if 2**n < options.gpus]
    budgets = [None, *(options.max_tokens // part for part in (2, 4, 8, 16) if options.max_tokens // part > 0)]
    rows = []
    for decoding, training in splits:
        for budget in budgets:
            setup = Setup(
                prompts_per_iteration=options.prompts,
                responses_per_prompt=options.responses,
                prompt_tokens=options.prompt_tokens,
                lengths=lengths,
                budget_tokens=budget,
                num_instances=decoding,
                max_concurrent=options.max_concurrent,
            )
            scaled = replace(speeds, train_seconds_per_token=speeds.train_seconds_per_token / training)
            iterations = simulate(setup, scaled, num_iterations=options.iterations)
            steady = iterations[len(iterations) // 2 :]
            rows.append(
                Row(
                    budget,
                    decoding,
                    training,
                    sum(of.seconds for of in steady) / len(steady),
                    sum(of.utilisation for of in steady) / len(steady),
                    tokens_per_second(iterations),
                )
            )
    return rows


def _show(rows: list[Row]) -> None:
    best = max(rows, key=lambda row: row.tokens_per_second)
    table = Table("decode on", "train on", "budget", "iteration s", "places in use", "tokens/s", "", box=None)
    for row in rows:
        table.add_row(
            str(row.decoding),
            str(row.training),
            "none" if row.budget is None else str(row.budget),
            f"{row.seconds:.1f}",
            f"{row.utilisation:.0%}",
            f"{row.tokens_per_second:.0f}",
            "◄ most tokens/s" if row is best else "",
        )
    Console(highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
