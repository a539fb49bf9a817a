"""The parts of a real run on one rank, and its rollout, for the benchmarks that measure an iteration."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from megatron_k15.config import Config, to_yaml
from megatron_k15.leader_parts import LeaderParts
from megatron_k15.parallel.context import initialize
from megatron_k15.parts import Parts
from megatron_k15.rollout.generation import generate_groups
from megatron_k15.rollout.sampling import Sampling
from megatron_k15.rollout.segments import new_groups
from megatron_k15.trainer_group import TrainerGroup
from megatron_k15.trainer_parts import build_worker
from megatron_k15.types import Group, Prompt

LIMIT_SECONDS = 600.0


@contextmanager
def started(config: Config) -> Iterator[Parts]:
    """vLLM and the trainer, as `train_rl.py` starts them; ended with the context."""
    with initialize(config.parallel, seed=config.seed) as context, ExitStack() as stack:
        leader = LeaderParts(config, stack, config_yaml=to_yaml(config))
        starting = leader.start_engines(lambda text: None)
        trainers = TrainerGroup(build_worker(config, context, stack), wait_timeout_seconds=LIMIT_SECONDS)
        leader.wait_for_engines(starting)
        yield leader.parts(trainers)


def scored_groups(
    parts: Parts, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, iteration: int
) -> list[Group]:
    """One rollout, with rewards."""

    async def rollout() -> list[Group]:
        generated = generate_groups(
            parts.pool,
            new_groups(prompts, sampling.num_responses, iteration),
            sampling,
            decode=parts.decode,
            run_seed=seed,
            iteration=iteration,
        )
        return [
            await parts.scorer.score(sampled.prompt, sampled.trajectories, iteration) async for sampled in generated
        ]

    return parts.loop.run(rollout(), seconds=LIMIT_SECONDS, waiting_for="the rollout")
