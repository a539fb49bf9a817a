"""Pretraining in phases: language, cooldown, long-context activation (App. B.4)."""

from dataclasses import dataclass, field

from megatron_k15.config.checks import above_zero, at_least, one_of
from megatron_k15.config.phases import PhaseConfig
from megatron_k15.config.stage import StageConfig
from megatron_k15.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """One indexed data set of a phase."""

    path: str = ""
    """PREFIX of PREFIX.bin and PREFIX.idx, as megatron-core writes them."""
    weight: float = 1.0
    """Its share of the phase's sequences, relative to the other data sets: long data is upsampled here."""
    attention: str = "document"
    """How far a token looks back in a sequence: `document`, to its document's beginning (partial attention), or `full`,
    over all that the sequence holds."""

    def __post_init__(self) -> None:
        above_zero("phases: data: weight", self.weight)
        one_of("phases: data: attention", self.attention, ("document", "full"))
        if not self.path:
            raise ConfigError("phases: data: path must name an indexed data set; it is empty")


@dataclass(frozen=True, kw_only=True)
class PretrainPhaseConfig(PhaseConfig):
    name: str = ""
    """Shown in the plan."""
    sequence_tokens: int = 4096
    """Length of every sequence, documents following one another in it."""
    num_steps: int = 1000
    sequences_per_step: int = 8
    """Of one optimizer step, over all ranks."""
    sequences_per_micro_batch: int = 1
    """Short sequences are computed together, so many at a time; the results are the same."""
    rope_theta: float | None = None
    """The rotary base from this phase on; None leaves it as it is. Long-context activation sets 1,000,000."""
    data: tuple[MixConfig, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("phases: num_steps", self.num_steps, 1)
        at_least("phases: sequences_per_step", self.sequences_per_step, 1)
        at_least("phases: sequences_per_micro_batch", self.sequences_per_micro_batch, 1)
        above_zero("phases: rope_theta", self.rope_theta)
        if self.sequence_tokens < 2:
            raise ConfigError(f"phases: sequence_tokens must be at least 2 to predict one, got {self.sequence_tokens}")
        if not self.data:
            raise ConfigError(f"phases: data must name at least one data set; that of phase {self.name!r} is empty")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(StageConfig):
    run_dir: str = "runs/pretrain"
    from_scratch: bool = False
    """Begin with random weights: `model.path` needs a config.json and a tokenizer alone."""
    initializer_std: float = 0.02
    """Of the random weights; those that write into the residual stream get it divided by sqrt(2 * layers)."""
    phases: tuple[PretrainPhaseConfig, ...] = field(default=())

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero("initializer_std", self.initializer_std)
        if not self.phases:
            raise ConfigError("phases must name at least one phase; it is empty (examples/pretraining has a recipe)")
