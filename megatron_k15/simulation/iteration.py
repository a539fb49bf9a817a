"""Iteration after iteration with a token budget (§2.6.2): how long each takes, and what it trains on.

Limits: responses do not depend on the weights; speeds do not change; a request's prompt is read whole before its
instance goes on; training takes time in proportion to its tokens; nothing of one phase overlaps with another.
"""

import random
from dataclasses import dataclass

from megatron_k15.simulation.decoding import DecodeSpeed, Work, decode
from megatron_k15.simulation.lengths import LengthDistribution


@dataclass(frozen=True, kw_only=True)
class Speeds:
    decode: DecodeSpeed
    train_seconds_per_token: float
    train_seconds: float = 0.0
    """Of an iteration's training, beyond its tokens."""
    transfer_seconds: float
    """New weights into vLLM, memory swaps included."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    prompts_per_iteration: int
    responses_per_prompt: int
    prompt_tokens: int
    lengths: LengthDistribution
    budget_tokens: int | None = None
    num_instances: int = 1
    max_concurrent: int = 256
    shares_devices: bool = False
    """The instances run on the same devices: each is as many times slower as there are instances."""


@dataclass(frozen=True, kw_only=True)
class Iteration:
    rollout_seconds: float
    train_seconds: float
    seconds: float
    utilisation: float
    sampled_tokens: int
    complete_groups: int


@dataclass
class _Response:
    length: int
    done: int = 0


def simulate(setup: Setup, speeds: Speeds, *, num_iterations: int, seed: int = 0) -> list[Iteration]:
    rng = random.Random(seed)
    speed = speeds.decode.slower(setup.num_instances) if setup.shares_devices else speeds.decode
    waiting: list[list[_Response]] = []
    found = []
    for _ in range(num_iterations):
        waiting += [
            [_Response(setup.lengths.draw(rng)) for _ in range(setup.responses_per_prompt)]
            for _ in range(setup.prompts_per_iteration)
        ]
        active = [response for group in waiting for response in group if response.done < response.length]
        budget = setup.budget_tokens or setup.lengths.max_tokens
        work = [
            Work(num_read=setup.prompt_tokens + of.done, num_made=min(budget, of.length - of.done)) for of in active
        ]
        decoded = decode(work, speed, num_instances=setup.num_instances, max_concurrent=setup.max_concurrent)
        for response, part in zip(active, work, strict=True):
            response.done += part.num_made
        complete = [group for group in waiting if all(response.done == response.length for response in group)]
        waiting = [group for group in waiting if group not in complete]
        just_ended = {id(response) for response in active}
        # With train.loss_segments=current only what this iteration sampled is trained on, behind its whole prefix.
        trained = sum(
            setup.prompt_tokens + response.length
            for group in complete
            for response in group
            if id(response) in just_ended
        )
        train = speeds.train_seconds + trained * speeds.train_seconds_per_token if complete else 0.0
        found.append(
            Iteration(
                rollout_seconds=decoded.seconds,
                train_seconds=train,
                seconds=decoded.seconds + train + speeds.transfer_seconds,
                utilisation=decoded.utilisation,
                sampled_tokens=sum(part.num_made for part in work),
                complete_groups=len(complete),
            )
        )
    return found


def tokens_per_second(iterations: list[Iteration]) -> float:
    """Sampled tokens per second of whole iterations, over the second half, when the buffer has filled."""
    steady = iterations[len(iterations) // 2 :]
    return sum(iteration.sampled_tokens for iteration in steady) / sum(iteration.seconds for iteration in steady)
