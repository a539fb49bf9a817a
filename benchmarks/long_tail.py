"""Iterations under a long tail of lengths, with and without a token budget: on the real vLLM, and in the simulator.

Lengths are log-normal with a few at the maximum. A response has the length drawn for it (end-of-sequence is ignored);
all else is real: requests, pieces, mirror-descent update, weights to vLLM. After the buffer has filled, every setting
is timed over the same number of iterations.

`ratio` is tokens sampled per second of whole iterations with the budget, over those without (the baseline), one
instance. For the simulator, decode steps at three batch sizes and prefill are timed first, training and transfer taken
from the iterations without a budget; then every setting is predicted: `error` is prediction over measurement, less 1.

Prints one JSON line. `python benchmarks/long_tail.py [--budget N] [--instances 1 2] [--speeds FILE]`
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from rounds import machine

from megatron_k15.config import Config, EngineConfig, ModelConfig, TrainConfig
from megatron_k15.engines.pool import EnginePool
from megatron_k15.engines.types import GenerateRequest, Generation
from megatron_k15.event_loop import EventLoopThread
from megatron_k15.models.package_model import resolve_model
from megatron_k15.parallel.context import initialize
from megatron_k15.rollout.generation import generate_groups
from megatron_k15.rollout.sampling import Sampling
from megatron_k15.rollout.segments import new_groups
from megatron_k15.simulation.decoding import DecodeSpeed
from megatron_k15.simulation.iteration import Iteration, Setup, Speeds, simulate
from megatron_k15.simulation.lengths import LengthDistribution
from megatron_k15.trainer_parts import build_worker
from megatron_k15.training.advantages import training_sequence
from megatron_k15.training_worker import TrainingWorker
from megatron_k15.types import Prompt, SampledGroup, TrainingSequence

LIMIT_SECONDS = 600.0
PROMPT_TOKENS = 24
CALIBRATION_TOKENS = 16
SEED = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="package:smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--responses", type=int, default=4)
    parser.add_argument("--median-tokens", type=float, default=24.0)
    parser.add_argument("--sigma", type=float, default=0.7)
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument("--share-at-max", type=float, default=0.04)
    parser.add_argument("--budget", type=int, default=48)
    parser.add_argument("--instances", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3, help="timed iterations per setting")
    parser.add_argument("--speeds", type=Path, help="write the measured speeds here, for tools/simulate.py")
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as name:
        result = _measure(arguments, Path(name))
    print(json.dumps(result))


def _measure(arguments: argparse.Namespace, work: Path) -> dict[str, object]:
    lengths = LengthDistribution(
        median_tokens=arguments.median_tokens,
        sigma=arguments.sigma,
        max_tokens=arguments.max_tokens,
        share_at_max=arguments.share_at_max,
    )
    setup = Setup(
        prompts_per_iteration=arguments.prompts,
        responses_per_prompt=arguments.responses,
        prompt_tokens=PROMPT_TOKENS,
        lengths=lengths,
        max_concurrent=arguments.prompts * arguments.responses * 4,
        shares_devices=True,
    )
    config = Config(
        run_dir=str(work),
        model=ModelConfig(path=arguments.model, dtype=arguments.dtype),
        train=TrainConfig(max_tokens_per_micro_batch=2048),
    )
    settings: dict[str, dict[str, object]] = {}
    speeds: Speeds | None = None
    with initialize(config.parallel, seed=0) as context, ExitStack() as trainer_stack:
        worker = build_worker(config, context, trainer_stack)
        for num_instances in arguments.instances:
            with ExitStack() as stack:
                machine_room = Machine(worker, arguments, num_instances, stack, log_dir=work / "logs")
                decode_speed = machine_room.calibrate() if speeds is None else speeds.decode
                for budget in (None, arguments.budget):
                    this = replace(setup, num_instances=num_instances, budget_tokens=budget)
                    measured = machine_room.iterations(this, arguments.repeats)
                    if speeds is None:
                        speeds = _speeds(decode_speed, measured, setup)
                    settings[f"{num_instances} x {budget or 'no budget'}"] = _compare(this, measured, speeds)
    assert speeds is not None
    if arguments.speeds:
        arguments.speeds.write_text(json.dumps(asdict(speeds), indent=1) + "\n")
    first = arguments.instances[0]
    with_budget, without = settings[f"{first} x {arguments.budget}"], settings[f"{first} x no budget"]
    return {
        "benchmark": "long_tail",
        "ratio": round(with_budget["tokens_per_second"] / without["tokens_per_second"], 3),  # type: ignore[operator]
        "baseline": "no token budget, one instance",
        "settings": settings,
        "largest_error": max(abs(of["error"]) for of in settings.values()),  # type: ignore[arg-type]
        "speeds": asdict(speeds),
        "lengths": asdict(lengths),
        "dtype": arguments.dtype,
        "repeats": arguments.repeats,
        **machine(),
    }


def _speeds(decode: DecodeSpeed, measured: list[Iteration], setup: Setup) -> Speeds:
    """Training and transfer from iterations without a budget: all that was sampled was trained on."""
    tokens = [
        of.sampled_tokens + setup.prompts_per_iteration * setup.responses_per_prompt * PROMPT_TOKENS for of in measured
    ]
    return Speeds(
        decode=decode,
        train_seconds_per_token=sum(of.train_seconds for of in measured) / sum(tokens),
        transfer_seconds=statistics.fmean(of.seconds - of.train_seconds - of.rollout_seconds for of in measured),
    )


def _compare(setup: Setup, measured: list[Iteration], speeds: Speeds) -> dict[str, object]:
    warm_up = _warm_up(setup)
    predicted = simulate(setup, speeds, num_iterations=warm_up + len(measured), seed=SEED)[warm_up:]
    assert [of.sampled_tokens for of in predicted] == [of.sampled_tokens for of in measured], "the same lengths"
    seconds = statistics.fmean(of.seconds for of in measured)
    expected = statistics.fmean(of.seconds for of in predicted)
    return {
        "seconds": round(seconds, 3),
        "predicted_seconds": round(expected, 3),
        "error": round(expected / seconds - 1.0, 3),
        "rollout_seconds": round(statistics.fmean(of.rollout_seconds for of in measured), 3),
        "predicted_rollout_seconds": round(statistics.fmean(of.rollout_seconds for of in predicted), 3),
        "train_seconds": round(statistics.fmean(of.train_seconds for of in measured), 3),
        "utilisation": round(statistics.fmean(of.utilisation for of in measured), 3),
        "predicted_utilisation": round(statistics.fmean(of.utilisation for of in predicted), 3),
        "tokens_per_second": round(sum(of.sampled_tokens for of in measured) / sum(of.seconds for of in measured), 2),
    }


def _warm_up(setup: Setup) -> int:
    """Iterations until the buffer holds as much as it ever will; at least one, which pays for lazy set-up."""
    return max(1, -(-setup.lengths.max_tokens // (setup.budget_tokens or setup.lengths.max_tokens)) - 1)


class FixedLengths:
    """The pool, with every response ending at the length drawn for it, and its places watched."""

    def __init__(self, pool: EnginePool, lengths: dict[str, int]) -> None:
        self._pool = pool
        self._lengths = lengths
        self._started = time.monotonic()
        self._busy_seconds = 0.0
        self._num_in_flight = self._num_places = 0

    def utilisation(self) -> float:
        """Of the places (the most requests at once), the share that was in use since the start."""
        return self._busy_seconds / (self._num_places * (time.monotonic() - self._started))

    async def generate(self, request: GenerateRequest) -> Generation:
        response, _, offset = request.request_key.partition("@")
        left = self._lengths[response] - int(offset or 0)
        self._num_in_flight += 1
        self._num_places = max(self._num_places, self._num_in_flight)
        started = time.monotonic()
        generation = await self._pool.generate(replace(request, max_tokens=min(request.max_tokens, left)))
        self._busy_seconds += time.monotonic() - started
        self._num_in_flight -= 1
        ended = len(generation.token_ids) == left
        return replace(generation, finish_reason="stop" if ended else "length")


class Machine:
    """vLLM instances and the trainer, on this machine."""

    def __init__(
        self, worker: TrainingWorker, arguments: argparse.Namespace, num_instances: int, stack: ExitStack, log_dir: Path
    ) -> None:
        self._worker = worker
        self._loop = stack.enter_context(EventLoopThread())
        self._version = 0
        self._lengths: dict[str, int] = {}
        self._longest = max(PROMPT_TOKENS + arguments.max_tokens + 8, 4 * PROMPT_TOKENS)
        engine = EngineConfig(
            num_engines=num_instances,
            max_model_len=self._longest,
            enable_prefix_caching=False,
        )
        self._pool = EnginePool(
            engine, model_dir=resolve_model(arguments.model), dtype=arguments.dtype, log_dir=log_dir
        )
        stack.callback(lambda: self._run(self._pool.stop()))
        self._run(self._pool.start())
        self._run(self._pool.init_weight_transfer({}))

    def calibrate(self) -> DecodeSpeed:
        """Seconds of a decode step at three batch sizes, fitted by a line; of a prompt token, from long prompts."""
        self._requests(4, PROMPT_TOKENS, CALIBRATION_TOKENS)
        points = []
        for count in (1, 12, 32):
            short = min(self._requests(count, PROMPT_TOKENS, 1) for _ in range(2))
            long = min(self._requests(count, PROMPT_TOKENS, 1 + CALIBRATION_TOKENS) for _ in range(2))
            points.append((count, (long - short) / CALIBRATION_TOKENS))
        per_sequence, step = statistics.linear_regression(*zip(*points, strict=True))
        more = self._longest // 2
        few, many = (min(self._requests(8, tokens, 1) for _ in range(2)) for tokens in (PROMPT_TOKENS, more))
        per_token = max(0.0, (many - few) / (8 * (more - PROMPT_TOKENS)))
        request = max(0.0, few / 8 - PROMPT_TOKENS * per_token)
        return DecodeSpeed(
            step_seconds=max(step, 1e-6),
            step_seconds_per_sequence=max(per_sequence, 0.0),
            prefill_seconds_per_token=per_token,
            request_seconds=request,
        )

    def iterations(self, setup: Setup, repeats: int) -> list[Iteration]:
        rng = random.Random(SEED)
        waiting: list[SampledGroup] = []
        found = []
        for number in range(_warm_up(setup) + repeats):
            prompts = [_prompt(number, index) for index in range(setup.prompts_per_iteration)]
            new = new_groups(prompts, setup.responses_per_prompt, number)
            for group in new:
                for of in group.trajectories:
                    self._lengths[f"{of.prompt_id}#{of.sample_index}"] = setup.lengths.draw(rng)
            iteration, waiting = self._iterate(setup, [*waiting, *new], number)
            print(setup.num_instances, setup.budget_tokens, iteration, file=sys.stderr, flush=True)
            found.append(iteration)
        return found[_warm_up(setup) :]

    def _iterate(
        self, setup: Setup, groups: Sequence[SampledGroup], number: int
    ) -> tuple[Iteration, list[SampledGroup]]:
        started = time.monotonic()
        before = sum(of.num_response_tokens for group in groups for of in group.trajectories)
        after, utilisation = self._run(self._rollout(setup, groups, number))
        rolled_out = time.monotonic()
        complete = [group for group in after if group.is_complete]
        sequences = _sequences(complete, groups)
        if sequences:
            self._worker.start_iteration(0)
            self._worker.update([sequences])
        trained = time.monotonic()
        self._version += 1
        self._run(self._pool.announce_update())
        self._run(self._pool.update_weights(self._worker.publish(self._version), self._version))
        return Iteration(
            rollout_seconds=rolled_out - started,
            train_seconds=trained - rolled_out,
            seconds=time.monotonic() - started,
            utilisation=utilisation,
            sampled_tokens=sum(of.num_response_tokens for group in after for of in group.trajectories) - before,
            complete_groups=len(complete),
        ), sorted((group for group in after if not group.is_complete), key=lambda group: group.key)

    async def _rollout(
        self, setup: Setup, groups: Sequence[SampledGroup], number: int
    ) -> tuple[list[SampledGroup], float]:
        sampling = Sampling(
            num_responses=setup.responses_per_prompt,
            max_tokens=setup.lengths.max_tokens + 1,
            budget_tokens=setup.budget_tokens,
            ignore_eos=True,
        )
        pool = FixedLengths(self._pool, self._lengths)
        generated = generate_groups(
            pool,
            groups,
            sampling,
            decode=lambda token_ids: "",
            run_seed=SEED,
            iteration=number,
        )
        after = [group async for group in generated]
        return after, pool.utilisation()

    def _requests(self, count: int, prompt_tokens: int, made: int) -> float:
        """Seconds for so many equal requests at once."""

        async def all_of_them() -> None:
            await asyncio.gather(
                *(
                    self._pool.generate(
                        GenerateRequest(
                            token_ids=tuple(100 + (index * 7 + token) % 150 for token in range(prompt_tokens)),
                            max_tokens=made,
                            ignore_eos=True,
                            seed=index,
                        )
                    )
                    for index in range(count)
                )
            )

        started = time.monotonic()
        self._run(all_of_them())
        return time.monotonic() - started

    def _run(self, coroutine):
        return self._loop.run(coroutine, seconds=LIMIT_SECONDS, waiting_for="vLLM")


def _prompt(iteration: int, index: int) -> Prompt:
    rng = random.Random(iteration * 1000 + index)
    tokens = tuple(rng.randrange(100, 250) for _ in range(PROMPT_TOKENS))
    return Prompt(id=f"{iteration}/{index}", token_ids=tokens, text="", answer="")


def _sequences(complete: Sequence[SampledGroup], before: Sequence[SampledGroup]) -> list[TrainingSequence]:
    """As `train.loss_segments=current`: responses that were still open when the iteration began."""
    was_open = {(*group.key, of.sample_index) for group in before for of in group.trajectories if of.is_open}
    ended = [of for group in complete for of in group.trajectories if (*group.key, of.sample_index) in was_open]
    return [
        training_sequence(of, advantage=1.0 if index % 2 else -1.0, weight=1.0 / len(ended))
        for index, of in enumerate(ended)
    ]


if __name__ == "__main__":
    main()
