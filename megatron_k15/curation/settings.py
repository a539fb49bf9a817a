"""Every threshold of curation, with the report's value as default where it gives one (§2.1)."""

from dataclasses import dataclass

from megatron_k15.errors import ConfigError

REASON_INSTRUCTION = "{prompt}\n\nReason step by step, and put the final answer in \\boxed{}."
CODE_INSTRUCTION = "{prompt}\n\nReason step by step, then give the whole program in one fenced code block."
GUESS_INSTRUCTION = "{prompt}\n\nDo not reason and do not explain. Guess: give only the final answer, in \\boxed{}."


@dataclass(frozen=True, kw_only=True)
class CurationSettings:
    min_characters: int = 8
    max_characters: int = 8000
    max_answer_characters: int = 200
    """Longer reference answers of `math` prompts are no answers that a rule or a reward model can compare."""
    near_duplicate_similarity: float = 0.7
    """Jaccard similarity of word pairs from which two prompts with the same numbers and signs are near duplicates."""
    contamination_similarity: float = 0.6
    """The same, between a prompt and an evaluation prompt."""
    exclude_multiple_choice: bool = True
    exclude_true_false: bool = True
    exclude_proofs: bool = True
    """Evaluability (§2.1)."""
    num_difficulty_samples: int = 10
    """Answers per prompt whose pass rate is the difficulty proxy (§2.1)."""
    difficulty_temperature: float = 1.0
    """§2.1: "relatively high"."""
    max_pass_rate: float = 0.9
    """Prompts with a higher pass rate are trivial. The report gives no number: at 10 samples, all are right."""
    min_pass_rate: float = 0.0
    """Prompts with a lower pass rate are left out; 0 keeps those that were never solved, as the report does."""
    num_guesses: int = 8
    """N of §2.1: tries without reasoning."""
    max_right_guesses: int = 0
    """More right guesses, and the prompt is easy to hack: the report removes it at the first."""
    guess_temperature: float = 1.0
    max_reasoning_tokens: int = 512
    max_guess_tokens: int = 32
    max_subject_share: float = 0.3
    """Most prompts of one discipline, as a share of those that come to this step. Ours: the report says "balanced" and
    gives no number."""
    reason_instruction: str = REASON_INSTRUCTION
    code_instruction: str = CODE_INSTRUCTION
    """In place of `reason_instruction` for `code` prompts."""
    guess_instruction: str = GUESS_INSTRUCTION
    seed: int = 0
    """Decides the samples, and which prompts of an over-represented subject leave."""

    def __post_init__(self) -> None:
        for name in ("near_duplicate_similarity", "contamination_similarity", "max_subject_share"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ConfigError(f"{name} must be in (0, 1], got {value}")
        for name in ("max_pass_rate", "min_pass_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("num_difficulty_samples", "num_guesses", "max_right_guesses"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("reason_instruction", "code_instruction", "guess_instruction"):
            if "{prompt}" not in getattr(self, name):
                raise ConfigError(f"{name} must hold {{prompt}}, got {getattr(self, name)!r}")
