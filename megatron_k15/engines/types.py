"""What goes into vLLM and what comes out: token ids in, token ids with logprobs and weight versions out."""

from dataclasses import dataclass
from typing import Literal

from megatron_k15.types import VersionSpan

GenerationFinish = Literal["stop", "length", "repetition", "aborted"]
"""`stop`: end-of-sequence token or stop string; `length`: max_tokens or the model's longest sequence; `repetition`:
vLLM saw a repeating pattern; `aborted`: ended by `EnginePool.abort`."""


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """One response to sample."""

    token_ids: tuple[int, ...]
    """What the model reads: the prompt, and the response so far when one is continued."""
    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 turns top-k off."""
    stop: tuple[str, ...] = ()
    """Strings that end the response; the tokens that spelled them are kept."""
    seed: int | None = None
    """None draws from the engine's own generator."""
    ignore_eos: bool = False
    repetition_max_pattern_tokens: int = 0
    """Ends a response in which a pattern of up to this many tokens repeats; 0 turns this off."""
    repetition_min_count: int = 8
    request_key: str = ""
    """Names the request in errors, such as `prompt/sample`."""

    def __post_init__(self) -> None:
        if not self.token_ids:
            raise ValueError(f"request {self.request_key!r}: token_ids must not be empty")
        if self.max_tokens < 1:
            raise ValueError(f"request {self.request_key!r}: max_tokens must be at least 1, got {self.max_tokens}")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One sampled response.

    `logprobs[t]` is ln p(token t) in nats under the distribution it was drawn from: log_softmax(logits / temperature),
    renormalised over what top_p and top_k left where they are on; at temperature 0, log_softmax(logits).
    """

    token_ids: tuple[int, ...]
    """With the end-of-sequence token where the model ended it."""
    logprobs: tuple[float, ...]
    finish_reason: GenerationFinish
    versions: tuple[VersionSpan, ...]
    """By which weights the tokens were sampled; covers them without gaps."""


@dataclass(frozen=True, kw_only=True)
class WeightUpdate:
    """A weight version to load: what the weight-transfer engine inside vLLM is told, and its number."""

    info: dict[str, object]
    version: int


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """Totals since the pool started."""

    num_requests: int
    num_prompt_tokens: int
    num_generated_tokens: int
    num_resent: int
    """Requests sent again because their vLLM died."""
    num_restarts: int
    num_in_flight: int
    num_joined: int = 0
    """Ready instances of other machines."""
    num_answered_by_joined: int = 0
    """Requests that they answered."""
