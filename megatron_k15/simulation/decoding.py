"""vLLM instances that decode side by side, as events in time.

An instance with n sequences takes `step_seconds + n · step_seconds_per_sequence` per token of all of them, and stands
still while it reads the prompt of a sequence that it takes in. A response goes to the instance with the fewest; above
`max_concurrent` they queue for whichever is free first, as the engine pool does it.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class DecodeSpeed:
    """Of one instance, measured while it is alone on its devices."""

    step_seconds: float
    step_seconds_per_sequence: float
    prefill_seconds_per_token: float
    request_seconds: float = 0.0
    """Beyond the tokens: HTTP, scheduling, detokenization; once per request."""

    def slower(self, factor: float) -> "DecodeSpeed":
        """Of an instance that shares its devices with others."""
        return DecodeSpeed(
            step_seconds=self.step_seconds * factor,
            step_seconds_per_sequence=self.step_seconds_per_sequence * factor,
            prefill_seconds_per_token=self.prefill_seconds_per_token * factor,
            request_seconds=self.request_seconds * factor,
        )


@dataclass(frozen=True, kw_only=True)
class Work:
    """One request: tokens to read, tokens to make."""

    num_read: int
    num_made: int


@dataclass(frozen=True, kw_only=True)
class Decoded:
    seconds: float
    """Until the last response has ended."""
    utilisation: float
    """Mean share of the places for sequences, over all instances and that time, that were in use."""


@dataclass(kw_only=True)
class _Instance:
    clock: float = 0.0
    left: list[int] = field(default_factory=list)
    """Tokens that each sequence still has to make."""
    place_seconds: float = 0.0

    def take_in(self, work: Work, speed: DecodeSpeed) -> None:
        pause = work.num_read * speed.prefill_seconds_per_token + speed.request_seconds
        self.clock += pause
        self.place_seconds += pause * len(self.left)
        self.left.append(work.num_made)

    def step_seconds(self, speed: DecodeSpeed) -> float:
        return speed.step_seconds + len(self.left) * speed.step_seconds_per_sequence

    def next_end(self, speed: DecodeSpeed) -> float:
        return self.clock + min(self.left) * self.step_seconds(speed)

    def run_to_next_end(self, speed: DecodeSpeed) -> None:
        steps = min(self.left)
        seconds = steps * self.step_seconds(speed)
        self.clock += seconds
        self.place_seconds += seconds * len(self.left)
        self.left = [tokens - steps for tokens in self.left if tokens > steps]


def decode(work: Sequence[Work], speed: DecodeSpeed, *, num_instances: int, max_concurrent: int) -> Decoded:
    """All of `work`, handed over at once."""
    instances = [_Instance() for _ in range(num_instances)]
    queue = deque(work)
    for _ in range(min(len(queue), num_instances * max_concurrent)):
        min(instances, key=lambda instance: len(instance.left)).take_in(queue.popleft(), speed)
    while busy := [instance for instance in instances if instance.left]:
        first = min(busy, key=lambda instance: instance.next_end(speed))
        first.run_to_next_end(speed)
        while queue and len(first.left) < max_concurrent:
            first.take_in(queue.popleft(), speed)
    seconds = max(instance.clock for instance in instances)
    places = num_instances * min(max_concurrent, -(-len(work) // num_instances))
    used = sum(instance.place_seconds for instance in instances)
    return Decoded(seconds=seconds, utilisation=used / (seconds * places) if seconds else 0.0)
