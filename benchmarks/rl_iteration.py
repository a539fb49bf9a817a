"""One RL iteration on SmolLM2-135M, 4 prompts x 4 responses x 64 tokens, against its floor in the same run.

Ours, with the parts of a real run on one rank: rollout (logprobs and versions come back) and scoring; advantages,
packing, mirror descent and the optimizer step; weights to vLLM, checksummed, loaded and probed.

Baseline, "vLLM alone + plain transformers": the same vLLM asked by plain concurrent requests for as many tokens from
the same prompts, without logprobs or seeds, and transformers' forward and backward over the tokens that our rollout
sampled, padded right in one batch, sdpa attention, logits at every position; no optimizer, no transfer. Before both
sides vLLM's prefix cache is empty. End-of-sequence is ignored, so that all responses have their full length.

`ratio` is ours over the floor, the median over rounds. Prints one JSON line.
`python benchmarks/rl_iteration.py [--dtype bf16] [--repeats N]`
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from plain_transformers import PlainTransformers
from rounds import machine, medians, ratio, timed_rounds
from run_parts import LIMIT_SECONDS, scored_groups, started

from megatron_k15.config import (
    CheckpointConfig,
    Config,
    EngineConfig,
    MetricsConfig,
    ModelConfig,
    PromptConfig,
    RolloutConfig,
)
from megatron_k15.master import Timer
from megatron_k15.models.package_model import resolve_model
from megatron_k15.parts import Parts
from megatron_k15.rollout.sampling import Sampling
from megatron_k15.training.advantages import training_sequences
from megatron_k15.types import TrainingSequence

MAX_PROMPT_TOKENS = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="package:smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num-prompts", type=int, default=4)
    parser.add_argument("--responses-per-prompt", type=int, default=4)
    parser.add_argument("--response-tokens", type=int, default=64)
    parser.add_argument("--chat-template", action="store_true", help="longer prompts, which responses share")
    parser.add_argument("--transformers-batch", type=int, help="sequences per pass; default: all at once")
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as name:
        result = _measure(_config(arguments, Path(name)), arguments)
    print(json.dumps(result))


def _config(arguments: argparse.Namespace, run_dir: Path) -> Config:
    return Config(
        run_dir=str(run_dir),
        model=ModelConfig(path=arguments.model, dtype=arguments.dtype, chat_template=arguments.chat_template),
        prompts=PromptConfig(
            reasoning_gym={"chain_sum": {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 2}},
            num_train=arguments.num_prompts,
            max_prompt_tokens=MAX_PROMPT_TOKENS,
        ),
        rollout=RolloutConfig(
            prompts_per_iteration=arguments.num_prompts,
            responses_per_prompt=arguments.responses_per_prompt,
            max_response_tokens=arguments.response_tokens,
        ),
        engine=EngineConfig(max_model_len=MAX_PROMPT_TOKENS + arguments.response_tokens),
        checkpoint=CheckpointConfig(resume=False),
        metrics=MetricsConfig(tensorboard=False, wandb="off"),
    )


def _measure(config: Config, arguments: argparse.Namespace) -> dict[str, object]:
    with started(config) as parts:
        ours = Ours(config, parts)
        num_responses = arguments.num_prompts * arguments.responses_per_prompt
        plain = PlainTransformers(
            resolve_model(config.model.path),
            dtype=arguments.dtype,
            batch_size=arguments.transformers_batch or num_responses,
        )
        floor = Floor(ours, plain)
        records = timed_rounds({"ours": ours.iterate, "floor": floor.run}, arguments.repeats)
    for record in records:
        record["floor"] -= record.pop("not_counted")
    return {
        "benchmark": "rl_iteration",
        "ratio": ratio(records, "ours", "floor"),
        "baseline": "vLLM alone + plain transformers forward and backward",
        "seconds": medians(records),
        "dtype": arguments.dtype,
        "num_response_tokens": num_responses * arguments.response_tokens,
        "num_prompt_tokens": sum(len(prompt.token_ids) for prompt in ours.prompts),
        "repeats": arguments.repeats,
        **machine(),
    }


class Ours:
    """`master.Master`'s iteration, with responses of exact length."""

    def __init__(self, config: Config, parts: Parts) -> None:
        self.parts = parts
        self.prompts = parts.prompts.train
        self.sampling = Sampling(
            num_responses=config.rollout.responses_per_prompt,
            max_tokens=config.rollout.max_response_tokens,
            ignore_eos=True,
        )
        self.sequences: Sequence[TrainingSequence] = ()
        """Of the last iteration."""
        self._config = config
        self._iteration = 0

    def iterate(self, timer: Timer) -> None:
        with timer.phase("ours_rollout"):
            groups = scored_groups(
                self.parts, self.prompts, self.sampling, seed=self._config.seed, iteration=self._iteration
            )
        with timer.phase("ours_train"):
            (self.sequences,), _ = training_sequences(groups, self._config.train, version=self._iteration)
            self.parts.trainers.start_iteration(0)
            self.parts.trainers.update([self.sequences])
        with timer.phase("ours_publish"):
            self._iteration += 1
            self.parts.sync.publish(version=self._iteration, probe=self.sequences)


class Floor:
    def __init__(self, ours: Ours, plain: PlainTransformers) -> None:
        self._ours = ours
        self._plain = plain

    def run(self, timer: Timer) -> None:
        self._ours.parts.loop.run(self._generate(timer), seconds=LIMIT_SECONDS, waiting_for="vLLM alone")
        with timer.phase("floor_train"):
            self._plain.forward_backward(self._ours.sequences)

    async def _generate(self, timer: Timer) -> None:
        client = await self._ours.parts.pool._instances[0].ready_client()
        sampling = self._ours.sampling
        params = {"max_tokens": sampling.max_tokens, "temperature": 1.0, "ignore_eos": True, "detokenize": False}
        bodies = [
            {"model": "policy", "token_ids": list(prompt.token_ids), "sampling_params": params}
            for prompt in self._ours.prompts
            for _ in range(sampling.num_responses)
        ]
        with timer.phase("not_counted"):
            await client.call("POST", "/reset_prefix_cache")
        with timer.phase("floor_generate"):
            answers = await asyncio.gather(*(client.call("POST", "/inference/v1/generate", body) for body in bodies))
        assert all(len(answer["choices"][0]["token_ids"]) == sampling.max_tokens for answer in answers)


if __name__ == "__main__":
    main()
