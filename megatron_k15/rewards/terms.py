"""The terms a reward is the sum of. A term is a function: one judged group in, one number per response out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from megatron_k15.config import RewardConfig
from megatron_k15.rewards.length import length_rewards
from megatron_k15.types import Prompt, Trajectory


@dataclass(frozen=True, kw_only=True)
class JudgedGroup:
    """What a term may look at. The sequences are aligned."""

    prompt: Prompt
    trajectories: tuple[Trajectory, ...]
    correct: tuple[bool, ...]
    well_formed: tuple[bool, ...]
    """Whether the response matches `reward.format_pattern`; True where there is none."""
    iteration: int


Term = Callable[[JudgedGroup], Sequence[float]]
"""One value per response, already weighted. It runs in the event loop: it must be quick, also on hostile text."""


def reward_terms(config: RewardConfig) -> Mapping[str, Term]:
    """The terms that the configuration turns on, by the name they have in `Score.parts` and in the metrics."""

    def answer(group: JudgedGroup) -> list[float]:
        return [config.correct_reward if right else config.wrong_reward for right in group.correct]

    def length(group: JudgedGroup) -> list[float]:
        if group.iteration < config.length_warmup_iterations:
            return [0.0] * len(group.trajectories)
        lengths = [trajectory.num_response_tokens for trajectory in group.trajectories]
        return [config.length_weight * value for value in length_rewards(lengths, group.correct)]

    def format(group: JudgedGroup) -> list[float]:
        return [0.0 if good else -config.format_penalty for good in group.well_formed]

    def repetition(group: JudgedGroup) -> list[float]:
        ended = [trajectory.finish_reason == "repetition" for trajectory in group.trajectories]
        return [-config.repetition_penalty if repeats else 0.0 for repeats in ended]

    terms: dict[str, Term] = {"answer": answer}
    if config.length_weight:
        terms["length"] = length
    if config.format_pattern:
        terms["format"] = format
    if config.repetition_penalty:
        terms["repetition"] = repetition
    return terms
