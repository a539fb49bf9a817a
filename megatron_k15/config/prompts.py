"""Problems: where they come from and in which order they are drawn."""

from dataclasses import dataclass, field

from megatron_k15.config.checks import at_least, one_of
from megatron_k15.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """Where prompts come from and in which order they are drawn (§2.3.4)."""

    files: tuple[str, ...] = ()
    """JSONL or Parquet with `prompt` or `messages`, `answer`, and optionally `id`, `tags`, `difficulty`, `task`."""
    reasoning_gym: dict[str, dict[str, int | float | bool | str]] = field(default_factory=dict)
    """reasoning-gym tasks by name, each with its own settings."""
    num_train: int = 1000
    """Prompts taken from each reasoning-gym task."""
    instruction: str = "{prompt}"
    """Wraps each prompt; `{prompt}` stands for the question."""
    max_prompt_tokens: int = 512
    """A longer prompt is refused when the set is read."""
    curriculum: bool = False
    """Easy first: before `curriculum_transition_iteration` all prompts are drawn alike, then only hard ones."""
    curriculum_transition_iteration: int = 0
    curriculum_min_difficulty: float = 0.5
    """`hard` means a difficulty of at least this."""
    prioritized: bool = False
    """Draw problem i in proportion to 1 - s_i, its tracked success rate."""
    success_rate_momentum: float = 0.5
    """Weight of the newest observation in s_i, which starts at 0."""
    bad_lines: str = "error"
    """`error`, or `skip`: count and report them."""

    def __post_init__(self) -> None:
        one_of("prompts.bad_lines", self.bad_lines, ("error", "skip"))
        at_least("prompts.num_train", self.num_train, 1)
        at_least("prompts.max_prompt_tokens", self.max_prompt_tokens, 1)
        at_least("prompts.curriculum_transition_iteration", self.curriculum_transition_iteration, 0)
        if not 0 <= self.curriculum_min_difficulty <= 1:
            raise ConfigError(
                f"prompts.curriculum_min_difficulty must be in [0, 1], got {self.curriculum_min_difficulty}"
            )
        if "{prompt}" not in self.instruction:
            raise ConfigError(f"prompts.instruction must contain {{prompt}}, got {self.instruction!r}")
        if not 0 < self.success_rate_momentum <= 1:
            raise ConfigError(f"prompts.success_rate_momentum must be in (0, 1], got {self.success_rate_momentum}")
