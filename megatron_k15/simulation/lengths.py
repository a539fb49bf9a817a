"""How long responses are, before any limit cuts them: log-normal with a share at the maximum (the long tail)."""

import math
import random
from dataclasses import dataclass

from megatron_k15.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LengthDistribution:
    median_tokens: float
    sigma: float
    """Of the logarithm: 0 gives equal lengths, 1 a long tail."""
    max_tokens: int
    share_at_max: float = 0.0
    """Responses that never stop by themselves."""

    def __post_init__(self) -> None:
        if not (self.median_tokens >= 1 and self.sigma >= 0 and self.max_tokens >= 1 and 0 <= self.share_at_max <= 1):
            raise ConfigError(
                f"lengths need a median and a maximum of at least 1, sigma of at least 0 and a share in [0, 1]; {self}"
            )

    def draw(self, rng: random.Random) -> int:
        if rng.random() < self.share_at_max:
            return self.max_tokens
        drawn = rng.lognormvariate(math.log(self.median_tokens), self.sigma)
        return max(1, min(self.max_tokens, round(drawn)))
