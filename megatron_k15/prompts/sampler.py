"""Which problems an iteration trains on (§2.3.4).

*Uniform* (default): an epoch's permutation is used up before the next begins. *Curriculum*: from the transition
iteration on, only prompts with a known difficulty of at least `curriculum_min_difficulty`. *Prioritized*: drawn one
after another, without replacement, each in proportion to 1 - s_i among those left. Curriculum and prioritized combine.

s_i starts at 0 and moves by `success_rate_momentum` towards the success rate of each new group, so that one lucky
group does not retire a problem.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from megatron_k15.config import PromptConfig
from megatron_k15.errors import CheckpointError, ConfigError
from megatron_k15.types import Prompt


class PromptSampler:
    """Args:
        prompts: the training set, with unique ids.
        num_per_iteration: the largest `count` that will be asked for; checked here, so that a run does not find out
            at its transition iteration.

    Raises:
        ConfigError: the set, or its hard part, has fewer prompts than that.
    """

    def __init__(
        self, prompts: Sequence[Prompt], config: PromptConfig, seed: int, *, num_per_iteration: int = 1
    ) -> None:
        self._prompts = tuple(prompts)
        self._config = config
        self._rng = np.random.default_rng(seed)
        self._index = {prompt.id: index for index, prompt in enumerate(self._prompts)}
        assert len(self._index) == len(self._prompts), "prompt ids must be unique"
        self._success_rates = np.zeros(len(self._prompts))
        self._queue: list[int] = []
        """What is left of this epoch's permutation."""
        self._hard = np.array(
            [
                index
                for index, prompt in enumerate(self._prompts)
                if prompt.difficulty is not None and prompt.difficulty >= config.curriculum_min_difficulty
            ],
            dtype=np.int64,
        )
        self._check_enough(num_per_iteration, iteration=0)
        if config.curriculum:
            self._check_enough(num_per_iteration, iteration=config.curriculum_transition_iteration)

    def sample(self, count: int, iteration: int) -> list[Prompt]:
        """`count` different prompts for an iteration.

        Raises:
            ConfigError: there are fewer candidates.
        """
        self._check_enough(count, iteration)
        candidates = self._candidates(iteration)
        chosen = self._prioritized(candidates, count) if self._config.prioritized else self._uniform(candidates, count)
        return [self._prompts[index] for index in chosen]

    def record(self, prompt_id: str, success_rate: float) -> None:
        """Move s_i towards the share of correct responses in a new group of problem i."""
        assert 0 <= success_rate <= 1, success_rate
        index = self._index[prompt_id]
        momentum = self._config.success_rate_momentum
        self._success_rates[index] += momentum * (success_rate - self._success_rates[index])

    def state(self) -> dict[str, Any]:
        """JSON-able; a sampler over the same prompts that loads it continues as this one would."""
        seen = np.flatnonzero(self._success_rates)
        return {
            "prompts": self._fingerprint(),
            "rng": self._rng.bit_generator.state,
            "queue": list(self._queue),
            "success_rates": {self._prompts[index].id: float(self._success_rates[index]) for index in seen},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Raises:
        CheckpointError: the state was saved over another prompt set.
        """
        if state["prompts"] != self._fingerprint():
            raise CheckpointError(
                f"the checkpoint's prompt set ({state['prompts']}) is not this run's ({self._fingerprint()}): keep "
                "prompts.*, evaluation.* and seed as they were, or start anew in another run_dir"
            )
        self._rng.bit_generator.state = state["rng"]
        self._queue = list(state["queue"])
        self._success_rates[:] = 0.0
        for prompt_id, rate in state["success_rates"].items():
            self._success_rates[self._index[prompt_id]] = rate

    def _fingerprint(self) -> str:
        digest = hashlib.sha256("\n".join(prompt.id for prompt in self._prompts).encode()).hexdigest()
        return f"{len(self._prompts)} prompts, {digest[:16]}"

    def _candidates(self, iteration: int) -> np.ndarray:
        """Indexes, int64, ascending."""
        if self._config.curriculum and iteration >= self._config.curriculum_transition_iteration:
            return self._hard
        return np.arange(len(self._prompts))

    def _check_enough(self, count: int, iteration: int) -> None:
        candidates = self._candidates(iteration)
        if count <= len(candidates):
            return
        hard = f" with a difficulty of at least {self._config.curriculum_min_difficulty}"
        raise ConfigError(
            f"iteration {iteration} needs {count} different prompts; the training set has {len(candidates)}"
            f"{hard if candidates is self._hard else ''}: lower rollout.prompts_per_iteration or add prompts"
        )

    def _uniform(self, candidates: np.ndarray, count: int) -> list[int]:
        allowed = set(candidates.tolist())
        self._queue = [index for index in self._queue if index in allowed]
        chosen = self._queue[:count]
        del self._queue[:count]
        if len(chosen) < count:
            # A new epoch begins inside this iteration: what its end already gave must wait its turn in the new one.
            epoch = self._rng.permutation(candidates).tolist()
            old = set(chosen)
            first = [index for index in epoch if index not in old][: count - len(chosen)]
            used = set(first)
            self._queue = [index for index in epoch if index not in used]
            chosen += first
        return chosen

    def _prioritized(self, candidates: np.ndarray, count: int) -> list[int]:
        """Exponential clocks of rate 1 - s_i: the order in which they ring is successive sampling ∝ 1 - s_i."""
        weights = 1.0 - self._success_rates[candidates]
        clocks = self._rng.exponential(size=len(candidates))
        solved = weights <= 0.0
        # Solved problems have no weight. Where there are not enough others (late in a run: none at all), an iteration
        # still needs its prompts, and the solved ones have no order among them: they fill up uniformly, last.
        rings = np.where(solved, clocks, clocks / np.where(solved, 1.0, weights))
        return candidates[np.lexsort((rings, solved))[:count]].tolist()
