"""How the responses of one phase are sampled."""

from dataclasses import dataclass
from typing import Self

from megatron_k15.config import RolloutConfig


@dataclass(frozen=True, kw_only=True)
class Sampling:
    num_responses: int
    max_tokens: int
    """Of a whole response."""
    budget_tokens: int | None = None
    """Of what one iteration adds to it; None: no limit."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    """Go on past the end-of-sequence token: every response has `max_tokens`."""
    repetition_max_pattern_tokens: int = 0
    repetition_min_count: int = 8

    @classmethod
    def for_training(cls, config: RolloutConfig) -> Self:
        return cls(
            num_responses=config.responses_per_prompt,
            max_tokens=config.max_response_tokens,
            budget_tokens=config.budget_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            stop=config.stop_at,
            repetition_max_pattern_tokens=config.repetition_max_pattern_tokens,
            repetition_min_count=config.repetition_min_count,
        )

    @classmethod
    def greedy(cls, config: RolloutConfig) -> Self:
        """One response per prompt at temperature 0, for evaluation."""
        return cls(num_responses=1, max_tokens=config.max_response_tokens, temperature=0.0, stop=config.stop_at)
