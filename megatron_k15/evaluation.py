"""Greedy answers to the held-out prompts, and what may be concluded from them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from megatron_k15.config import Config
from megatron_k15.metrics import accuracy_interval, paired_difference_interval
from megatron_k15.parts import Parts
from megatron_k15.rollout.generation import generate_groups
from megatron_k15.rollout.sampling import Sampling
from megatron_k15.rollout.segments import new_groups


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One verdict per held-out prompt, in the order of the set, so that two evaluations pair up."""

    correct: tuple[bool, ...]
    mean_response_tokens: float

    @property
    def accuracy(self) -> float:
        return sum(self.correct) / len(self.correct)

    def describe(self, when: str, *, since: "Evaluation | None" = None) -> str:
        """One line: accuracy with its 95% interval and, given an earlier evaluation, the paired difference to it."""
        low, high = accuracy_interval(sum(self.correct), len(self.correct))
        line = (
            f"held-out accuracy {when}: {self.accuracy:.3f} (95% interval {low:.3f} to {high:.3f}, "
            f"{len(self.correct)} prompts, greedy, {self.mean_response_tokens:.1f} tokens per answer)"
        )
        if since is not None:
            low, high = paired_difference_interval(list(since.correct), list(self.correct))
            line += f"; change {self.accuracy - since.accuracy:+.3f} (paired 95% interval {low:+.3f} to {high:+.3f})"
        return line

    def to_dict(self, *, since: "Evaluation | None" = None) -> dict[str, float]:
        low, high = accuracy_interval(sum(self.correct), len(self.correct))
        values = {
            "accuracy": self.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "mean_response_tokens": self.mean_response_tokens,
        }
        if since is not None:
            low, high = paired_difference_interval(list(since.correct), list(self.correct))
            values |= {"change": self.accuracy - since.accuracy, "change_low": low, "change_high": high}
        return values

    def state(self) -> dict[str, Any]:
        return {"correct": list(self.correct), "mean_response_tokens": self.mean_response_tokens}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls(correct=tuple(state["correct"]), mean_response_tokens=state["mean_response_tokens"])


async def evaluate(parts: Parts, config: Config, *, on_progress: Callable[[str], None]) -> Evaluation:
    """Answer every held-out prompt once at temperature 0 with the weights that vLLM now holds."""
    prompts = parts.prompts.held_out
    verdicts: dict[str, bool] = {}
    num_tokens = 0
    groups = generate_groups(
        parts.pool,
        new_groups(prompts, 1, 0),
        Sampling.greedy(config.rollout),
        decode=parts.decode,
        run_seed=config.seed,
        iteration=0,
        on_progress=lambda done, tokens: on_progress(f"{done}/{len(prompts)} answers"),
    )
    async for sampled in groups:
        group = await parts.scorer.score(sampled.prompt, sampled.trajectories, 0)
        verdicts[group.prompt.id] = group.scores[0].correct
        num_tokens += group.trajectories[0].num_response_tokens
    return Evaluation(
        correct=tuple(verdicts[prompt.id] for prompt in prompts), mean_response_tokens=num_tokens / len(prompts)
    )
