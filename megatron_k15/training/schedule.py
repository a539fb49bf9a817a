"""Learning rates of the supervised stages: warm-up, then decay, phase after phase (§2.5.2).

rate  │    ╱╲__
      │   ╱    ╲__   ╱╲__        the second phase warms up from where the first one ended
      └──┴────────┴──┴──────► step
"""

import math

from megatron_k15.config import PhaseConfig


def learning_rate(phase: PhaseConfig, step: int, num_steps: int, *, before: float = 0.0) -> float:
    """Of one step.

    Args:
        step: within the phase, from 0.
        num_steps: of the phase. Its last one has `min_learning_rate`.
        before: the rate that the phase before it ended with; 0 for the first.
    """
    if step < phase.warmup_steps:
        return before + (phase.learning_rate - before) * (step + 1) / (phase.warmup_steps + 1)
    if phase.decay == "constant":
        return phase.learning_rate
    decaying = num_steps - 1 - phase.warmup_steps
    done = (step - phase.warmup_steps) / decaying if decaying > 0 else 0.0
    left = 1 - done if phase.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return phase.min_learning_rate + (phase.learning_rate - phase.min_learning_rate) * left


def last_rate(phase: PhaseConfig, num_steps: int, *, before: float = 0.0) -> float:
    """What the phase ends with."""
    return learning_rate(phase, num_steps - 1, num_steps, before=before) if num_steps else before
