"""One step of a supervised stage, as its stream gives it to the loop."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from megatron_k15.training.micro_batch import MicroBatch


class PlannedStep(NamedTuple):
    batches: list[MicroBatch]
    """This rank's."""
    learning_rate: float
    shown: dict[str, float]
    """For the metrics."""
    rope_theta: float | None = None
    """The rotary base from this step on; None leaves it as it is."""


class Stream(Protocol):
    """What a stage trains on. Every rank has one, and asks it for the same steps."""

    @property
    def num_steps(self) -> int: ...

    def step(self, number: int) -> PlannedStep:
        """Collective."""

    def identity(self, step: int) -> Mapping[str, Any]:
        """JSON values: what must be the same again for a run to go on at `step`."""
