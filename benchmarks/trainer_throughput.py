"""Trainer tokens/s on packed sequences, against transformers on the same sequences padded.

Both sides, on SmolLM2-135M, one process, the same threads and dtype: forward and backward over all sequences, gradient
norm clipped, one step of fused AdamW. Tokens are those of the sequences, padding and shared prompts not counted twice
or less: a sequence of n tokens counts n on both sides.

Two sets: `mixed`, sequences of 32 to 256 tokens, each with a prompt of its own; `shared`, 4 prompts with 4 responses
each, where the trainer computes a prompt once. In both the loss is over the responses.

Baseline: transformers with sdpa attention, right padding, logits at every position, batches of --transformers-batch
sequences in the order given. `ratio` is trainer over transformers: above 1 the trainer is faster. `peak_mib` is by how
much resident memory rises in one more step. Prints one JSON line.
`python benchmarks/trainer_throughput.py [--dtype bf16] [--kernels reference] [--repeats N]`
"""

import argparse
import contextlib
import json
import random
import sys
from collections.abc import Sequence

from plain_transformers import PlainTransformers
from resident import peak_growth_bytes
from rounds import Step, machine, medians, ratio, timed_rounds

from megatron_k15.config import ParallelConfig, TrainConfig
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.hf_files import HfWeights
from megatron_k15.models.loading import load_hf_weights
from megatron_k15.models.package_model import resolve_model
from megatron_k15.models.policy import build_policy
from megatron_k15.parallel.context import ParallelContext, initialize
from megatron_k15.training.policy_trainer import PolicyTrainer
from megatron_k15.types import TrainingSequence

PROMPT_TOKENS = 24
"""Of each sequence in `mixed`; the others are in the loss."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="package:smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--kernels", choices=("fused", "reference"), default="fused")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--num-sequences", type=int, default=16, help="in `mixed`")
    parser.add_argument("--num-prompts", type=int, default=4, help="in `shared`")
    parser.add_argument("--responses-per-prompt", type=int, default=4, help="in `shared`")
    parser.add_argument("--transformers-batch", type=int, default=8)
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr), initialize(ParallelConfig(), seed=0) as context:
        result = _measure(arguments, context)
    print(json.dumps(result))


def _measure(arguments: argparse.Namespace, context: ParallelContext) -> dict[str, object]:
    model_dir = resolve_model(arguments.model)
    architecture = Architecture.from_hf(model_dir)
    trainer = _trainer(model_dir, architecture, context, arguments)
    plain = PlainTransformers(model_dir, dtype=arguments.dtype, batch_size=arguments.transformers_batch)
    draw = random.Random(0)
    sets = {
        "mixed": mixed_sequences(draw, architecture.vocab_size, arguments.num_sequences),
        "shared": shared_sequences(
            draw, architecture.vocab_size, arguments.num_prompts, arguments.responses_per_prompt
        ),
    }
    result: dict[str, object] = {
        "benchmark": "trainer_throughput",
        "dtype": arguments.dtype,
        "kernels": arguments.kernels,
    }
    for name, sequences in sets.items():
        result |= {name: _compare(trainer, plain, sequences, arguments.repeats)}
    baseline = f"transformers, sdpa, right padding, batches of {arguments.transformers_batch}"
    return result | {"baseline": baseline, "repeats": arguments.repeats, **machine()}


def _compare(
    trainer: PolicyTrainer, plain: PlainTransformers, sequences: Sequence[TrainingSequence], repeats: int
) -> dict[str, object]:
    def plain_step() -> None:
        plain.forward_backward(sequences)
        plain.step()

    steps: dict[str, Step] = {
        "trainer": lambda timer: _discard(trainer.update([sequences])),
        "transformers": lambda timer: plain_step(),
    }
    records = timed_rounds(steps, repeats)
    seconds = medians(records)
    num_tokens = sum(len(sequence.token_ids) for sequence in sequences)
    return {
        "ratio": ratio(records, "transformers", "trainer"),
        "tokens_per_second": {name: round(num_tokens / value, 1) for name, value in seconds.items()},
        "seconds": seconds,
        "peak_mib": {
            "trainer": round(peak_growth_bytes(lambda: trainer.update([sequences])) / 2**20),
            "transformers": round(peak_growth_bytes(plain_step) / 2**20),
        },
        "num_sequences": len(sequences),
        "num_tokens": num_tokens,
    }


def _discard(result: object) -> None:
    """A step returns nothing."""


def _trainer(
    model_dir, architecture: Architecture, context: ParallelContext, arguments: argparse.Namespace
) -> PolicyTrainer:
    dtype = arguments.dtype
    chunks = build_policy(architecture, context, dtype=dtype)
    load_hf_weights(chunks, HfWeights.open(model_dir, architecture), architecture, context)
    return PolicyTrainer(
        TrainConfig(kernels=arguments.kernels), context, architecture, chunks, dtype=dtype, num_iterations=1
    )


def mixed_sequences(draw: random.Random, vocab_size: int, count: int) -> list[TrainingSequence]:
    """Lengths spread evenly over 32..256 tokens, in chance order; random token ids."""
    lengths = [32 + 224 * index // max(1, count - 1) for index in range(count)]
    draw.shuffle(lengths)
    return [
        _sequence(_tokens(draw, vocab_size, PROMPT_TOKENS), _tokens(draw, vocab_size, length - PROMPT_TOKENS), count)
        for length in lengths
    ]


def shared_sequences(
    draw: random.Random, vocab_size: int, num_prompts: int, num_responses: int
) -> list[TrainingSequence]:
    """Prompts of 24 to 64 tokens, responses of 16 to 64."""
    prompts = [_tokens(draw, vocab_size, draw.randint(24, 64)) for _ in range(num_prompts)]
    total = num_prompts * num_responses
    return [
        _sequence(prompt, _tokens(draw, vocab_size, draw.randint(16, 64)), total)
        for prompt in prompts
        for _ in range(num_responses)
    ]


def _tokens(draw: random.Random, vocab_size: int, count: int) -> tuple[int, ...]:
    return tuple(draw.randrange(vocab_size) for _ in range(count))


def _sequence(prompt: tuple[int, ...], response: tuple[int, ...], total: int) -> TrainingSequence:
    return TrainingSequence(
        token_ids=prompt + response,
        loss_mask=(False,) * len(prompt) + (True,) * len(response),
        behaviour_logprobs=(0.0,) * (len(prompt) + len(response)),
        advantage=0.5 if response[0] % 2 else -0.5,
        weight=1 / total,
    )


if __name__ == "__main__":
    main()
