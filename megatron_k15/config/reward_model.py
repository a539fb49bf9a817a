"""A model that judges answers, where a rule cannot or may be wrong (§2.3.5)."""

from dataclasses import dataclass, field

from megatron_k15.config.checks import above_zero, at_least, one_of
from megatron_k15.config.rollout import EngineConfig
from megatron_k15.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    kind: str = "off"
    """`off`; `cot`: a chat model that reasons step by step and ends with a JSON verdict; `classic`: a model that
    train_reward_model has trained, whose score says it."""
    path: str = ""
    """Its Hugging Face directory, or `package:…` as `model.path`: a vLLM of its own is started beside the policy's."""
    address: str = ""
    """Instead of `path`: `http://HOST:PORT` of an OpenAI-compatible server."""
    served_name: str = ""
    """The model's name at `address`."""
    token_variable: str = "K15_REWARD_MODEL_TOKEN"
    """The environment variable with the token for `address`; none is sent where it is not set."""
    decides: str = "after_rule_wrong"
    """`after_rule_wrong`: the rule's `right` stands, the model is asked about the rest. `always`: about all answers."""
    fallback: str = "rule"
    """What counts when the model gives no verdict: the `rule`'s, `wrong`, or `stop` the run."""
    tasks: tuple[str, ...] = ("math",)
    """Kinds of prompts it judges."""
    threshold: float = 0.0
    """Of a classic model: a score above it says right. 0 is where it was trained to part right from wrong."""
    num_votes: int = 1
    """Verdicts per answer; the majority counts, a tie is none."""
    temperature: float = 0.0
    """Several votes want more than 0."""
    max_tokens: int = 512
    """Reasoning and verdict."""
    max_reasoning_characters: int = 1200
    max_response_characters: int = 6000
    """Of a longer response the end is shown."""
    num_attempts: int = 2
    """How often a vote is asked for before it counts as none."""
    max_concurrent_requests: int = 32
    request_timeout_seconds: float = 120.0
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(max_model_len=4096, gpu_memory_utilization=0.2))
    """Of a vLLM of the run's own."""

    def __post_init__(self) -> None:
        one_of("reward_model.kind", self.kind, ("off", "cot", "classic"))
        one_of("reward_model.decides", self.decides, ("after_rule_wrong", "always"))
        one_of("reward_model.fallback", self.fallback, ("rule", "wrong", "stop"))
        for name in ("num_votes", "max_tokens", "num_attempts", "max_concurrent_requests", "max_response_characters"):
            at_least(f"reward_model.{name}", getattr(self, name), 1)
        at_least("reward_model.temperature", self.temperature, 0)
        above_zero("reward_model.request_timeout_seconds", self.request_timeout_seconds)
        if self.kind == "classic" and self.address:
            raise ConfigError("reward_model.kind=classic wants a path: its vLLM is started here")
        if self.kind != "off" and bool(self.path) == bool(self.address):
            raise ConfigError("reward_model needs either a path or the address of a server, and not both")
        if self.num_votes > 1 and self.temperature == 0:
            raise ConfigError(f"reward_model.num_votes={self.num_votes} at temperature 0 asks for the same vote again")
