"""Thresholds of the corpus pipeline. The report names its steps, not their numbers: these are ours, after what
published pipelines (Gopher, C4, FineWeb) use."""

import math
from dataclasses import dataclass

from megatron_k15.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    min_characters: int = 20
    max_characters: int = 1_000_000
    min_mean_word: float = 1.0
    max_mean_word: float = 20.0
    """Mean length of words, in characters. Outside: no prose, no code."""
    max_symbol_share: float = 0.5
    """Of characters that are neither letters, digits nor white space."""
    max_repeated_lines: float = 0.5
    """Share of the lines that have come before, in documents of ten lines or more."""
    max_similarity: float = 0.8
    """Near duplicates: the share of common five-word pieces from which the later document goes; 1 keeps them all."""
    classifier_weight: float = 1.0
    model_weight: float = 1.0
    """Parts of the combined score, of those that there are."""
    rates: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.85, 2.0))
    """Steps (score, sampling rate): from each score on its rate. 0 leaves a document out, 0.5 takes every second one, 2
    takes it twice."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("min_characters", "max_characters", "min_mean_word", "max_mean_word"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("max_symbol_share", "max_repeated_lines"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a share, from 0 to 1, got {getattr(self, name)}")
        if self.min_characters > self.max_characters or self.min_mean_word > self.max_mean_word:
            raise ConfigError(
                "a least value must not be above the most: "
                f"characters {self.min_characters} to {self.max_characters}, "
                f"mean word {self.min_mean_word} to {self.max_mean_word}"
            )
        if not all(math.isfinite(value) for step in self.rates for value in step):
            raise ConfigError(f"rates must be finite numbers, got {self.rates}")
        parts = (self.classifier_weight, self.model_weight)
        if not all(math.isfinite(part) and part > 0 for part in parts):
            raise ConfigError(f"classifier_weight and model_weight must be above 0, got {parts[0]} and {parts[1]}")
        if not self.rates or self.rates[0][0] != 0 or list(self.rates) != sorted(self.rates):
            raise ConfigError(f"rates must begin at score 0 and rise in score, got {self.rates}")
        if any(rate < 0 for _, rate in self.rates):
            raise ConfigError(f"rates must be at least 0, got {self.rates}")
        if not 0 < self.max_similarity <= 1:
            raise ConfigError(f"max_similarity must be above 0 and at most 1, got {self.max_similarity}")

    def rate(self, score: float) -> float:
        return next(rate for threshold, rate in reversed(self.rates) if score >= threshold)
