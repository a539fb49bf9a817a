"""The iteration (§2.6.1), on rank 0: rollout phase, then training phase.

    prompts.sample + replay.unfinished → rollout (complete groups leave, open ones wait) → advantages → trainers.update
    → publish → next iteration

The master alone knows this order; the rooms it calls do not know each other.
"""

import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_k15.config import Config
from megatron_k15.evaluation import Evaluation, evaluate
from megatron_k15.iteration_metrics import iteration_metrics
from megatron_k15.parts import Parts
from megatron_k15.prompts.sampler import PromptSampler
from megatron_k15.rollout_phase import Rollout, rollout_phase
from megatron_k15.training.advantages import training_sequences
from megatron_k15.transfer.probe import Gap
from megatron_k15.types import Prompt
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
            num_per_iteration=config.rollout.most_new_prompts,
        )
        self.rollout = rollout_phase(parts, config)
        self.iteration = 0
        self.first_evaluation: Evaluation | None = None

    def run(self) -> None:
        """Evaluate, iterate, evaluate; a checkpoint every so often."""
        first_probe = probe_of_prompts(self.parts.prompts.train[:PROBED])
        gap = self.parts.colocation.to_rollout(version=self.iteration, probe=first_probe)
        self.parts.progress.say(
            f"trainer and vLLM agree: mean |logprob difference| {gap.mean:.1e} nats over {gap.num_tokens} tokens"
        )
        if self.iteration == 0:
            self.first_evaluation = self._evaluate("before training")
        try:
            self._iterate_until_done()
        finally:
            self._wait_for(self.rollout.close(), "the rollout to stop")
        self._evaluate("after training")
        self.parts.colocation.to_train()

    def _iterate_until_done(self) -> None:
        started = time.monotonic()
        while self.iteration < self.config.num_iterations:
            self._iterate()
            if self._due(self.config.evaluation.every_iterations) and self.iteration < self.config.num_iterations:
                self._evaluate(f"after iteration {self.iteration}")
            if self.config.max_minutes and time.monotonic() - started > 60 * self.config.max_minutes:
                self.parts.progress.say(f"stopping: max_minutes = {self.config.max_minutes} has passed")
                break

    def _iterate(self) -> None:
        timer = Timer()
        prompts = self.sampler.sample(self.rollout.num_new_prompts, self.iteration)
        with timer.phase("rollout"):
            rollout = self._roll_out(prompts)
        for group in rollout.groups:
            self.sampler.record(group.prompt.id, group.success_rate)
        with timer.phase("train"), self.parts.progress.phase(f"iteration {self.iteration}: training"):
            self.parts.colocation.to_train()
            steps, counts = training_sequences(rollout.groups, self.config.train, version=self.iteration)
            self.parts.trainers.start_iteration(self.iteration)
            training = self.parts.trainers.update(steps)
        self.iteration += 1
        self._checkpoint()
        with timer.phase("sync"):
            probe = steps[0] if steps else probe_of_prompts(self.parts.prompts.train[:PROBED])
            gap = self.parts.colocation.to_rollout(version=self.iteration, probe=probe)
        self._write_metrics(rollout, timer, {**training, **counts}, gap)

    def _write_metrics(self, rollout: Rollout, timer: Timer, training: dict[str, float], gap: Gap) -> None:
        """Of the iteration that has just ended, which `self.iteration` has passed."""
        iteration = self.iteration - 1
        values = iteration_metrics(
            rollout.groups,
            version=iteration,
            seconds=timer.seconds,
            num_sampled_tokens=rollout.num_sampled_tokens,
            max_tokens=self.config.rollout.max_response_tokens,
        )
        values |= {f"rollout/{name}": value for name, value in rollout.counts.items()}
        values |= {f"train/{name}": value for name, value in training.items()}
        values |= {"sync/logprob_gap_mean": gap.mean, "sync/logprob_gap_max": gap.max}
        values |= {f"colocate/{name}": value for name, value in self.parts.colocation.transitions.items()}
        values |= {
            "engine/restarts": float(self.parts.pool.restarts),
            "engine/answered_by_joined": float(self.parts.pool.stats().num_answered_by_joined),
            "reward/timeouts": float(self.parts.scorer.num_timeouts),
            "reward/worker_deaths": float(self.parts.scorer.num_worker_deaths),
            "reward/sandbox_restarts": float(self.parts.scorer.num_sandbox_restarts),
        }
        self.parts.metrics.write(iteration, values, rollout.groups)

    def _roll_out(self, prompts: Sequence[Prompt]) -> Rollout:
        title = f"iteration {self.iteration}: rollout"
        with self.parts.progress.phase(title) as update:
            return self.parts.loop.run(
                self.rollout.run(prompts, self.iteration, update),
                seconds=self.config.wait_timeout_seconds,
                waiting_for=f"{title} ({len(prompts)} new prompts)",
            )

    def _checkpoint(self) -> None:
        """Save while the trainer has its memory, and remove what no checkpoint that is kept would sample again."""
        config, replay = self.config.checkpoint, self.parts.replay
        if self._due(config.every_iterations):
            self._wait_for(self.rollout.rest(self.iteration), "responses under way to be recorded")
            with self.parts.progress.phase(f"checkpoint after iteration {self.iteration}"):
                self.parts.trainers.save(self.iteration, self.state(), replay.attachments(self.iteration))
        replay.discard_before(self.iteration - config.every_iterations * config.num_kept)

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

    def _wait_for(self, coroutine: Coroutine[Any, Any, None], waiting_for: str) -> None:
        self.parts.loop.run(coroutine, seconds=self.config.wait_timeout_seconds, waiting_for=waiting_for)

    def _due(self, every: int) -> bool:
        return every > 0 and self.iteration % every == 0

    def state(self) -> dict[str, Any]:
        """JSON-able; `load_state` of it continues as this master would have."""
        first = self.first_evaluation
        return {
            "iteration": self.iteration,
            "sampler": self.sampler.state(),
            "replay": self.parts.replay.state(),
            "first_evaluation": first.state() if first else None,
        }

    def load_state(self, state: dict[str, Any], checkpoint: Path) -> None:
        """Args:
        checkpoint: the folder that the state comes from; unfinished responses lie there.
        """
        self.iteration = state["iteration"]
        self.sampler.load_state(state["sampler"])
        prompts = {prompt.id: prompt for prompt in self.parts.prompts.train}
        self.parts.replay.load_state(state["replay"], prompts, checkpoint)
        first = state["first_evaluation"]
        self.first_evaluation = Evaluation.from_state(first) if first else None
