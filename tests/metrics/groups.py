"""Scored groups for metric tests."""

from collections.abc import Sequence

from megatron_k15.types import Group, Prompt, Score, Segment, Trajectory, VersionSpan


def group(name: str, texts: Sequence[str]) -> Group:
    """One group whose responses are `texts`; the first is correct."""
    prompt = Prompt(id=name, token_ids=(1,), text=f"question {name}", answer="19")
    segment = Segment(
        kind="sampled",
        token_ids=(7, 8),
        logprobs=(-1.0, -1.0),
        loss_mask=(True, True),
        versions=(VersionSpan(version=0, start=0, end=2),),
    )
    trajectories = tuple(
        Trajectory(
            prompt_id=name,
            sample_index=index,
            prompt_token_ids=(1,),
            segments=(segment,),
            finish_reason="stop",
            text=text,
        )
        for index, text in enumerate(texts)
    )
    scores = tuple(
        Score(reward=1.25 - index, correct=index == 0, parts={"answer": 1.0 - index, "length": 0.25})
        for index in range(len(texts))
    )
    return Group(prompt=prompt, trajectories=trajectories, scores=scores)
