"""The iteration (§2.6.1), on rank 0: rollout phase, then training phase.

    prompts.sample → rollout.generate → rewards.score → advantages → trainers.update → publish → next iteration

The master alone knows this order; the rooms it calls do not know each other.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from megatron_k15.config import Config
from megatron_k15.evaluation import Evaluation, evaluate
from megatron_k15.iteration_metrics import iteration_metrics
from megatron_k15.parts import Parts
from megatron_k15.prompts.sampler import PromptSampler
from megatron_k15.rollout.generation import Sampling, generate_groups
from megatron_k15.training.advantages import training_sequences
from megatron_k15.types import Group, Prompt
from megatron_k15.weight_sync import probe_of_prompts

PROBED = 64
"""Training prompts offered to the probe before the first rollout."""


@dataclass(kw_only=True)
class Timer:
    """Seconds per phase of one iteration."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


class Master:
    """Runs iterations from `self.iteration` on; everything it must remember is in `state()`."""

    def __init__(self, config: Config, parts: Parts) -> None:
        self.config = config
        self.parts = parts
        self.sampler = PromptSampler(
            parts.prompts.train,
            config.prompts,
            config.seed,
            num_per_iteration=config.rollout.prompts_per_iteration,
        )
        self.iteration = 0
        self.first_evaluation: Evaluation | None = None

    def run(self) -> None:
        """Evaluate, iterate, evaluate; a checkpoint every so often."""
        started = time.monotonic()
        gap = self.parts.sync.publish(version=self.iteration, probe=probe_of_prompts(self.parts.prompts.train[:PROBED]))
        self.parts.progress.say(
            f"trainer and vLLM agree: mean |logprob difference| {gap.mean:.1e} nats over {gap.num_tokens} tokens"
        )
        if self.iteration == 0:
            self.first_evaluation = self._evaluate("before training")
        while self.iteration < self.config.num_iterations:
            self._iterate()
            if self._due(self.config.checkpoint.every_iterations):
                with self.parts.progress.phase(f"checkpoint after iteration {self.iteration}"):
                    self.parts.trainers.save(self.iteration, self.state())
            if self._due(self.config.evaluation.every_iterations) and self.iteration < self.config.num_iterations:
                self._evaluate(f"after iteration {self.iteration}")
            if self.config.max_minutes and time.monotonic() - started > 60 * self.config.max_minutes:
                self.parts.progress.say(f"stopping: max_minutes = {self.config.max_minutes} has passed")
                break
        self._evaluate("after training")

    def _iterate(self) -> None:
        timer = Timer()
        prompts = self.sampler.sample(self.config.rollout.prompts_per_iteration, self.iteration)
        with timer.phase("rollout"):
            groups = self._rollout_and_score(prompts)
        for group in groups:
            self.sampler.record(group.prompt.id, group.success_rate)
        with timer.phase("train"), self.parts.progress.phase(f"iteration {self.iteration}: training"):
            steps, counts = training_sequences(groups, self.config.train)
            self.parts.trainers.start_iteration(self.iteration)
            training = self.parts.trainers.update(steps)
        with timer.phase("sync"):
            gap = self.parts.sync.publish(
                version=self.iteration + 1, probe=steps[0] if steps else probe_of_prompts(prompts)
            )
        values = iteration_metrics(groups, version=self.iteration, seconds=timer.seconds)
        values |= {f"train/{name}": value for name, value in {**training, **counts}.items()}
        values |= {"sync/logprob_gap_mean": gap.mean, "sync/logprob_gap_max": gap.max}
        values |= {
            "engine/restarts": float(self.parts.pool.restarts),
            "reward/timeouts": float(self.parts.scorer.num_timeouts),
            "reward/worker_deaths": float(self.parts.scorer.num_worker_deaths),
            "reward/sandbox_restarts": float(self.parts.scorer.num_sandbox_restarts),
        }
        self.parts.metrics.write(self.iteration, values, groups)
        self.iteration += 1

    def _rollout_and_score(self, prompts: Sequence[Prompt]) -> list[Group]:
        """Rewards are computed group by group, while other groups still generate."""
        total = len(prompts) * self.config.rollout.responses_per_prompt
        title = f"iteration {self.iteration}: rollout"

        async def collect(update: Any) -> list[Group]:
            generated = generate_groups(
                self.parts.pool,
                prompts,
                Sampling.for_training(self.config.rollout),
                decode=self.parts.decode,
                run_seed=self.config.seed,
                iteration=self.iteration,
                on_progress=lambda done, tokens: update(f"{done}/{total} responses, {tokens} tokens"),
            )
            groups = [
                await self.parts.scorer.score(prompt, trajectories, self.iteration)
                async for prompt, trajectories in generated
            ]
            # The order in which groups finish is chance; the order of the update must not be.
            return sorted(groups, key=lambda group: order[group.prompt.id])

        order = {prompt.id: index for index, prompt in enumerate(prompts)}
        with self.parts.progress.phase(title) as update:
            return self.parts.loop.run(
                collect(update), seconds=self.config.wait_timeout_seconds, waiting_for=f"{title} ({total} responses)"
            )

    def _evaluate(self, when: str) -> Evaluation | None:
        if not self.parts.prompts.held_out:
            return None
        with self.parts.progress.phase(f"evaluation {when}: {len(self.parts.prompts.held_out)} prompts") as update:
            evaluation = self.parts.loop.run(
                evaluate(self.parts, self.config, on_progress=update),
                seconds=self.config.wait_timeout_seconds,
                waiting_for=f"the evaluation {when}",
            )
        self.parts.progress.say(evaluation.describe(when, since=self.first_evaluation))
        self.parts.metrics.write_evaluation(self.iteration, evaluation.to_dict(since=self.first_evaluation))
        return evaluation

    def _due(self, every: int) -> bool:
        return every > 0 and self.iteration % every == 0

    def state(self) -> dict[str, Any]:
        """JSON-able; `load_state` of it continues as this master would have."""
        first = self.first_evaluation
        return {
            "iteration": self.iteration,
            "sampler": self.sampler.state(),
            "first_evaluation": first.state() if first else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.iteration = state["iteration"]
        self.sampler.load_state(state["sampler"])
        first = state["first_evaluation"]
        self.first_evaluation = Evaluation.from_state(first) if first else None
