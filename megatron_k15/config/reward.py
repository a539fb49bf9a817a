"""What a response is worth, and where its programs run."""

import re
from dataclasses import dataclass

from megatron_k15.config.checks import above_zero, at_least, one_of
from megatron_k15.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Terms of the reward; each is named in the logs."""

    correct_reward: float = 1.0
    wrong_reward: float = 0.0
    answer_extraction: str = "boxed_or_last_number"
    """`boxed`, `last_number`, `boxed_or_last_number`, or `tag` (<answer>…</answer>)."""
    length_weight: float = 0.0
    """Weight of the length reward (§2.3.3)."""
    length_warmup_iterations: int = 0
    """The length reward is zero before this iteration, constant afterwards."""
    format_pattern: str = ""
    """A regular expression that a response must hold somewhere to avoid `format_penalty` (`.` matches newlines); empty
    turns the term off."""
    format_penalty: float = 0.0
    repetition_penalty: float = 0.0
    """Subtracted from a response that ended by repetition."""
    num_workers: int = 1
    """Processes that compare answers."""
    timeout_seconds: float = 5.0
    """Per answer; past it the answer counts as wrong and the worker is replaced."""

    def __post_init__(self) -> None:
        allowed = ("boxed", "last_number", "boxed_or_last_number", "tag")
        one_of("reward.answer_extraction", self.answer_extraction, allowed)
        at_least("reward.length_weight", self.length_weight, 0)
        at_least("reward.num_workers", self.num_workers, 1)
        above_zero("reward.timeout_seconds", self.timeout_seconds)
        at_least("reward.length_warmup_iterations", self.length_warmup_iterations, 0)
        at_least("reward.format_penalty", self.format_penalty, 0)
        at_least("reward.repetition_penalty", self.repetition_penalty, 0)
        try:
            re.compile(self.format_pattern)
        except re.error as error:
            raise ConfigError(f"reward.format_pattern must be a regular expression; {error}") from error


@dataclass(frozen=True, kw_only=True)
class SandboxConfig:
    """Where the programs of `code` prompts run (§2.6.4)."""

    address: str = ""
    """`http://HOST:PORT` or `unix:PATH` of a running sandbox. Empty: a run with code prompts starts one of its own
    (as root, with bubblewrap installed), and restarts it."""
    token_variable: str = "K15_SANDBOX_TOKEN"
    """The environment variable that holds the token of a sandbox beyond loopback."""
    backend: str = "bubblewrap"
    """`bubblewrap` or `crun`, of a sandbox of the run's own."""
    num_slots: int = 0
    """Programs at one time in a sandbox of the run's own; 0: one per core."""
    max_concurrent_requests: int = 32
    request_timeout_seconds: float = 3600.0
    """Longest silence of a sandbox named by `address` before a submission is sent again: its turn in the queue, and all
    of its cases."""
    patience_seconds: float = 1200.0
    """The run stops when no verdict on a submission can be had for so long after a first failure."""
    hang_timeout_seconds: float = 30.0
    """A sandbox of the run's own that has not answered for this long is killed and restarted."""
    max_restarts: int = 20
    """Restarts of a sandbox of the run's own, over the run, before the run gives up."""

    def __post_init__(self) -> None:
        one_of("sandbox.backend", self.backend, ("bubblewrap", "crun"))
        if self.address and not self.address.startswith(("http://", "unix:")):
            raise ConfigError(f"sandbox.address must be http://HOST:PORT or unix:PATH, got {self.address!r}")
        at_least("sandbox.num_slots", self.num_slots, 0)
        at_least("sandbox.max_concurrent_requests", self.max_concurrent_requests, 1)
        above_zero("sandbox.request_timeout_seconds", self.request_timeout_seconds)
        above_zero("sandbox.patience_seconds", self.patience_seconds)
        above_zero("sandbox.hang_timeout_seconds", self.hang_timeout_seconds)
        at_least("sandbox.max_restarts", self.max_restarts, 0)
