"""Sampling, and the vLLM that samples."""

from dataclasses import dataclass

from megatron_k15.config.checks import DTYPES, above_zero, at_least, one_of
from megatron_k15.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    prompts_per_iteration: int = 16
    responses_per_prompt: int = 8
    """k of §2.3.2."""
    max_response_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 turns top-k off."""
    repetition_max_pattern_tokens: int = 0
    """vLLM ends a response in which a pattern of up to this many tokens repeats; 0 turns this off."""
    repetition_min_count: int = 8
    max_concurrent_requests: int = 256
    """Requests in flight per vLLM instance."""
    request_timeout_seconds: float = 600.0
    stop_at: tuple[str, ...] = ()
    """Strings that end a response, besides the end-of-sequence token."""
    budget_tokens: int | None = None
    """Partial rollouts (§2.6.2): output tokens per response and iteration; what has not ended by then goes on in the
    next iteration, up to max_response_tokens. None: every response ends in its iteration."""
    max_staleness: int | None = None
    """No token that enters training is of weights more than this many versions old. None: no limit."""
    at_max_staleness: str = "end"
    """What happens to a group that cannot keep max_staleness by waiting: `end` its open responses as they are (finish
    reason `aborted`) and train on it now, or `drop` it."""
    max_open_groups: int | None = None
    """Prompts under way at once, unfinished ones of earlier iterations included: fewer new ones are drawn where they
    would be more. None: no limit; there are at most prompts_per_iteration x max_response_tokens / budget_tokens.
    With in_flight_updates: 2 x prompts_per_iteration."""
    in_flight_updates: bool = False
    """Responses go on while the trainer trains. An iteration takes the first prompts_per_iteration groups that are
    complete; new weights reach the others in the middle of a response."""

    def __post_init__(self) -> None:
        at_least("rollout.prompts_per_iteration", self.prompts_per_iteration, 1)
        at_least("rollout.responses_per_prompt", self.responses_per_prompt, 2)
        at_least("rollout.max_response_tokens", self.max_response_tokens, 1)
        above_zero("rollout.temperature", self.temperature)
        at_least("rollout.max_concurrent_requests", self.max_concurrent_requests, 1)
        above_zero("rollout.request_timeout_seconds", self.request_timeout_seconds)
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"rollout.top_p must be in (0, 1], got {self.top_p}")
        at_least("rollout.top_k", self.top_k, 0)
        at_least("rollout.budget_tokens", self.budget_tokens, 1)
        at_least("rollout.max_staleness", self.max_staleness, 0)
        one_of("rollout.at_max_staleness", self.at_max_staleness, ("end", "drop"))
        at_least("rollout.max_open_groups", self.max_open_groups, 1)
        if self.in_flight_updates and self.budget_tokens is not None:
            raise ConfigError("rollout.in_flight_updates has no use for rollout.budget_tokens: set one of the two")
        if self.in_flight_updates and (self.max_open_groups or self.prompts_per_iteration) < self.prompts_per_iteration:
            raise ConfigError(
                f"rollout.in_flight_updates waits for prompts_per_iteration ({self.prompts_per_iteration}) groups: "
                f"rollout.max_open_groups must be at least that, got {self.max_open_groups}"
            )

    @property
    def continues(self) -> bool:
        """True when a response may take several iterations."""
        return self.budget_tokens is not None or self.in_flight_updates

    @property
    def most_new_prompts(self) -> int:
        """The most that one iteration may draw."""
        if self.in_flight_updates:
            return self.max_open_groups or 2 * self.prompts_per_iteration
        return self.prompts_per_iteration

    @property
    def truncates(self) -> bool:
        """True when sampling cuts the distribution, so that behaviour logprobs are not the model's."""
        return self.top_p < 1 or self.top_k > 0


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """vLLM, one process (group) per instance, bound to loopback."""

    num_engines: int = 1
    tensor_parallel_size: int = 1
    dtype: str = "auto"
    """As `model.dtype`; `auto` takes the trainer's."""
    max_model_len: int = 1024
    """Longest prompt plus response, in tokens."""
    kv_cache_bytes: int | None = None
    """KV cache per vLLM worker. None: 1 GiB on CPU; vLLM's own choice of GPU memory on CUDA."""
    gpu_memory_utilization: float = 0.6
    enable_prefix_caching: bool = True
    startup_timeout_seconds: float = 300.0
    max_restarts: int = 5
    """Restarts of one instance, over the run, before the run gives up."""
    health_interval_seconds: float = 2.0
    hang_timeout_seconds: float = 60.0
    """An instance whose health check has not answered for this long is killed and restarted."""

    def __post_init__(self) -> None:
        at_least("engine.num_engines", self.num_engines, 1)
        at_least("engine.tensor_parallel_size", self.tensor_parallel_size, 1)
        one_of("engine.dtype", self.dtype, DTYPES)
        at_least("engine.max_model_len", self.max_model_len, 8)
        above_zero("engine.startup_timeout_seconds", self.startup_timeout_seconds)
