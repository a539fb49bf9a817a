"""One random `kill -9` after another into a real run, and whether its weights are those of an undisturbed one.

Two tensor-parallel ranks under torchrun on a tiny model, in the deterministic set-up of docs/faults.md. Faults: vLLM's
engine core, a reward worker, trainer rank 0 or 1, the whole run (then the same command is started again), each at a
random moment. `ratio` is the seconds of the disturbed run over those of the undisturbed one, the baseline.

Prints one JSON line. `python benchmarks/kill_soak.py [--faults N] [--seed N]`
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rounds import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.conftest import make_tiny_model
from tests.test_kill import overrides, rank_processes, records_sampled_twice, same_weights, start

FAULTS = {"vllm": "VLLM::EngineCore", "reward_worker": "megatron_k15.rewards.judging", "rank_0": "0", "rank_1": "1"}
WHOLE_RUN = "whole_run"
LIMIT_SECONDS = 1800.0
MEAN_SECONDS_BETWEEN = 6.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, help="as --faults, for the other benchmarks' sake")
    parser.add_argument("--model", type=Path, help="not used: the model is a tiny random one")
    arguments = parser.parse_args()
    arguments.faults = arguments.repeats or arguments.faults
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as name:
        result = _measure(arguments, Path(name))
    print(json.dumps(result))


def _measure(arguments: argparse.Namespace, work: Path) -> dict[str, object]:
    model_dir = make_tiny_model(work / "model")
    length = [f"num_iterations={8 + 4 * arguments.faults}", "engine.max_restarts=1000"]
    undisturbed, disturbed = ([*overrides(model_dir, work / name), *length] for name in ("undisturbed", "disturbed"))
    started = time.monotonic()
    with start(undisturbed) as run:
        assert run.finish(LIMIT_SECONDS) == 0, "\n".join(run.lines[-40:])
    plain_seconds = time.monotonic() - started
    started = time.monotonic()
    injected, num_starts = _disturb(disturbed, arguments)
    seconds = time.monotonic() - started
    twice = records_sampled_twice(work / "disturbed" / "run" / "replay")
    return {
        "benchmark": "kill_soak",
        "ratio": round(seconds / plain_seconds, 3),
        "baseline": "the same run, undisturbed",
        "injected": dict(injected),
        "recovered": injected.total(),
        "sampled_twice": twice,
        "weights_equal": same_weights(work / "undisturbed", work / "disturbed"),
        "starts": num_starts,
        "seconds": {"undisturbed": round(plain_seconds, 1), "disturbed": round(seconds, 1)},
        "seed": arguments.seed,
        **machine(),
    }


def _disturb(config: list[str], arguments: argparse.Namespace) -> tuple[Counter[str], int]:
    """Inject the faults, then let the run come to its end; it must."""
    rng = random.Random(arguments.seed)
    injected: Counter[str] = Counter()
    num_starts = 0
    while True:
        num_starts += 1
        with start(config, max_restarts=1000) as run:
            if injected.total() < arguments.faults:
                run.wait_for("iteration ", LIMIT_SECONDS)
            while injected.total() < arguments.faults and run.process.poll() is None:
                time.sleep(rng.expovariate(1.0 / MEAN_SECONDS_BETWEEN))
                fault = rng.choice([*FAULTS, WHOLE_RUN])
                if fault == WHOLE_RUN:
                    injected[fault] += 1
                    break
                injected[fault] += _kill(run, fault)
                print(dict(injected), file=sys.stderr, flush=True)
            else:
                assert run.finish(LIMIT_SECONDS) == 0, "\n".join(run.lines[-40:])
                return injected, num_starts


def _kill(run, fault: str) -> bool:
    """False where there is nothing of the kind just now, or it died first."""
    name = FAULTS[fault]
    pids = [rank_processes(run)[name]] if name in rank_processes(run) else run.processes(name)
    for pid in pids[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
    return False


if __name__ == "__main__":
    main()
