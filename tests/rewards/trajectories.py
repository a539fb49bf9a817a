"""Prompts and trajectories for reward tests, from the few things a reward looks at."""

from typing import Any

from megatron_k15.types import FinishReason, Prompt, Segment, Trajectory, VersionSpan


def prompt(answer: str, task: str = "math", metadata: dict[str, Any] | None = None, text: str = "") -> Prompt:
    return Prompt(id="p", token_ids=(1,), text=text, answer=answer, task=task, metadata=metadata or {})


def trajectory(text: str, *, num_tokens: int = 4, finish_reason: FinishReason = "stop") -> Trajectory:
    segment = Segment(
        kind="sampled",
        token_ids=(7,) * num_tokens,
        logprobs=(-1.0,) * num_tokens,
        loss_mask=(True,) * num_tokens,
        versions=(VersionSpan(version=0, start=0, end=num_tokens),),
    )
    return Trajectory(
        prompt_id="p",
        sample_index=0,
        prompt_token_ids=(1,),
        segments=(segment,),
        finish_reason=finish_reason,
        text=text,
    )
