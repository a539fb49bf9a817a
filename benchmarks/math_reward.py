"""Verdicts on math answers per second on one core: plain numbers, and the labelled set, against math-verify alone.

Prints one JSON line. This process and its worker are bound to one core. Every reference is read anew in every round.
`ratio`: pairs/s of the whole rule on the labelled set over those of math-verify on the same set, in the same rounds.
`hostile_seconds`: the slowest of some hostile answers, each under a limit of `hostile_limit_seconds`.
`python benchmarks/math_reward.py [--repeats N] [--every N]`.
"""

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Sequence

from rounds import machine, medians, ratio, timed_rounds

from megatron_k15.config import RewardConfig
from megatron_k15.master import Timer
from megatron_k15.rewards.math_rule import MathRule, MathVerify
from megatron_k15.rewards.quick_rule import quick_verdict, reference_form
from megatron_k15.rewards.source_scores import LabelledPair, read_labelled_pairs
from megatron_k15.rewards.verdicts import AnswerPair
from megatron_k15.rewards.workers import WorkerPool
from tools.evaluate_rewards import LABELLED_SET

NUM_PLAIN = 4000
HOSTILE = ("9^{9^{9^{9}}}", r"\sum_{n=1}^{99999999} n!", "(" * 4000 + ")" * 4000, "1+" * 1_000_000, "{" * 8000)
HOSTILE_LIMIT_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--every", type=int, default=1, help="use every N-th labelled pair")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pairs = read_labelled_pairs(LABELLED_SET)[:: arguments.every]
    pool = WorkerPool(1, RewardConfig().timeout_seconds)
    try:
        print(json.dumps(_measure(pool, pairs, _plain_pairs(), arguments.repeats)))
    finally:
        pool.close()


def _plain_pairs() -> list[AnswerPair]:
    """Numbers as models write them: one in three is right."""
    rng = random.Random(0)
    pairs = []
    for _ in range(NUM_PLAIN):
        value = rng.randint(-9999, 9999)
        right = [f"{value}", f"{value:,}", f"{value}.0", f"${value}$"]
        given = rng.choice(right) if rng.random() < 1 / 3 else str(value + rng.randint(1, 99))
        pairs.append(AnswerPair(reference=str(value), given=given))
    return pairs


def _measure(
    pool: WorkerPool, labelled: Sequence[LabelledPair], plain: Sequence[AnswerPair], repeats: int
) -> dict[str, object]:
    pairs = [one.pair for one in labelled]
    labels = [one.label for one in labelled]
    verdicts: dict[str, list] = {}

    def step(name: str, source: MathRule | MathVerify, of: Sequence[AnswerPair]):
        def run(timer: Timer) -> None:
            reference_form.cache_clear()
            verdicts[name] = asyncio.run(source.judge(of))

        return run

    steps = {
        "plain": step("plain", MathRule(pool), plain),
        "rule": step("rule", MathRule(pool), pairs),
        "math_verify": step("math_verify", MathVerify(pool), pairs),
    }
    records = timed_rounds(steps, repeats)
    seconds = medians(records)
    counts = {"plain": len(plain), "rule": len(pairs), "math_verify": len(pairs)}
    undecided = sum(quick_verdict(pair.given, pair.reference) is None for pair in pairs)
    return {
        "benchmark": "math_reward",
        "ratio": ratio(records, over="math_verify", under="rule"),
        "baseline": "math-verify alone, same pairs",
        "pairs_per_second": {name: round(counts[name] / value, 1) for name, value in seconds.items()},
        "seconds": seconds,
        "num_pairs": counts,
        "left_to_math_verify": undecided,
        "accuracy": {name: _share_right(verdicts[name], labels) for name in ("rule", "math_verify")},
        "hostile_seconds": _hostile_seconds(),
        "hostile_limit_seconds": HOSTILE_LIMIT_SECONDS,
        "repeats": repeats,
        "machine": machine(),
    }


def _share_right(verdicts: Sequence[bool | None], labels: Sequence[bool]) -> float:
    return round(sum(verdict is label for verdict, label in zip(verdicts, labels, strict=True)) / len(labels), 4)


def _hostile_seconds() -> float:
    """Of the slowest answer; a worker that was killed is started again before the next one is timed."""
    pool = WorkerPool(1, HOSTILE_LIMIT_SECONDS)
    rule, nested = MathRule(pool), AnswerPair(reference=r"\sqrt{7+4\sqrt{3}}", given=r"2+\sqrt{3}")
    worst = 0.0
    try:
        for given in HOSTILE:
            asyncio.run(rule.judge([nested]))
            started = time.perf_counter()
            asyncio.run(rule.judge([AnswerPair(reference=r"\frac{x+7}{2}", given=given)]))
            worst = max(worst, time.perf_counter() - started)
    finally:
        pool.close()
    return round(worst, 3)


if __name__ == "__main__":
    main()
