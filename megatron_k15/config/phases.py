"""The phases of a supervised stage: each with its sequence length and its learning rate."""

from dataclasses import dataclass

from megatron_k15.config.checks import above_zero, at_least, one_of
from megatron_k15.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """Errors speak of a field as `phases: NAME`."""

    sequence_tokens: int = 32768
    """Longest sequence, and the size of a pack: one micro-batch."""
    learning_rate: float = 2e-5
    """After the warm-up."""
    min_learning_rate: float = 2e-6
    """At the phase's last step."""
    warmup_steps: int = 0
    """Steps in which the rate rises to `learning_rate`: from 0 in the first phase, later from where the phase before it
    ended."""
    decay: str = "cosine"
    """From one rate to the other: `cosine`, `linear`, or `constant`, which leaves `min_learning_rate` unused."""

    def __post_init__(self) -> None:
        at_least("phases: sequence_tokens", self.sequence_tokens, 1)
        above_zero("phases: learning_rate", self.learning_rate)
        at_least("phases: min_learning_rate", self.min_learning_rate, 0)
        at_least("phases: warmup_steps", self.warmup_steps, 0)
        one_of("phases: decay", self.decay, ("cosine", "linear", "constant"))
        if self.decay != "constant" and self.min_learning_rate > self.learning_rate:
            raise ConfigError(
                f"phases: min_learning_rate ({self.min_learning_rate}) must not be above learning_rate "
                f"({self.learning_rate})"
            )


@dataclass(frozen=True, kw_only=True)
class PackedPhaseConfig(PhaseConfig):
    """Passes over a data set whose sequences are packed."""

    num_epochs: int = 1
    packs_per_step: int = 8
    """Of one optimizer step, over all ranks: a multiple of the data-parallel size leaves none of them idle."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("phases: num_epochs", self.num_epochs, 1)
        at_least("phases: packs_per_step", self.packs_per_step, 1)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data of a packed stage comes from."""

    files: tuple[str, ...] = ()
    """JSONL or Parquet; what a row holds depends on the stage."""
    bad_lines: str = "error"
    """Rows that break a rule: `error`, or `skip`, counted and reported."""
    too_long: str = "error"
    """Sequences longer than a phase's `sequence_tokens`: `error`, or `skip` in that phase, counted and reported."""

    def __post_init__(self) -> None:
        one_of("data.bad_lines", self.bad_lines, ("error", "skip"))
        one_of("data.too_long", self.too_long, ("error", "skip"))
        if isinstance(self.files, str):
            raise ConfigError(f"data.files must be a list, got {self.files!r}")
