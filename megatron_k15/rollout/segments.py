"""A response in pieces (§2.6.2): what to ask for next, and what an answer adds to it.

    new_group → next_request → (vLLM) → record_of → extended → … until finish_reason is not `budget`

A response stays within `max_tokens` over all its pieces, and within `budget_tokens` per piece. A piece that several
weight versions sampled is cut into one segment per version.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from megatron_k15.engines.types import GenerateRequest, Generation
from megatron_k15.rollout.sampling import Sampling
from megatron_k15.types import (
    FinishReason,
    Prompt,
    SampledGroup,
    Segment,
    SegmentKey,
    SegmentRecord,
    Trajectory,
    VersionSpan,
)

Decode = Callable[[Sequence[int]], str]


def new_groups(prompts: Sequence[Prompt], num_responses: int, iteration: int) -> list[SampledGroup]:
    """A group of responses without tokens for each prompt drawn in `iteration`."""
    return [
        SampledGroup(
            prompt=prompt,
            drawn_iteration=iteration,
            trajectories=tuple(
                Trajectory(
                    prompt_id=prompt.id,
                    sample_index=index,
                    prompt_token_ids=prompt.token_ids,
                    segments=(),
                    finish_reason="budget",
                )
                for index in range(num_responses)
            ),
        )
        for prompt in prompts
    ]


def key_of(group: SampledGroup, trajectory: Trajectory, iteration: int) -> SegmentKey:
    """Of the piece that `iteration` adds to `trajectory`."""
    return SegmentKey(
        iteration=iteration,
        drawn_iteration=group.drawn_iteration,
        prompt_id=group.prompt.id,
        sample_index=trajectory.sample_index,
        offset=trajectory.num_response_tokens,
    )


def request_seed(run_seed: int, key: SegmentKey) -> int:
    """A seed that depends on nothing but what is sampled: the same after a restart, whichever instance serves it."""
    text = f"{run_seed}/{key.drawn_iteration}/{key.prompt_id}/{key.sample_index}"
    if key.offset:
        text += f"/{key.offset}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def next_request(trajectory: Trajectory, key: SegmentKey, sampling: Sampling, *, run_seed: int) -> GenerateRequest:
    """Ask for the next piece of an open response: the model reads the prompt and all earlier pieces."""
    left = sampling.max_tokens - key.offset
    return GenerateRequest(
        request_key=f"{key.prompt_id}#{key.sample_index}" + (f"@{key.offset}" if key.offset else ""),
        token_ids=trajectory.prompt_token_ids + trajectory.response_token_ids,
        max_tokens=min(left, sampling.budget_tokens or left),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop=sampling.stop,
        seed=request_seed(run_seed, key),
        ignore_eos=sampling.ignore_eos,
        repetition_max_pattern_tokens=sampling.repetition_max_pattern_tokens,
        repetition_min_count=sampling.repetition_min_count,
    )


def record_of(
    key: SegmentKey, trajectory: Trajectory, generation: Generation, sampling: Sampling, decode: Decode
) -> SegmentRecord:
    """What vLLM's answer adds to `trajectory`, and how the response stands after it."""
    reason: FinishReason = generation.finish_reason
    num_tokens = len(generation.token_ids)
    if reason == "length" and key.offset + num_tokens < sampling.max_tokens:
        reason = "budget"
    if key.offset and reason != "stop":
        stopped_at = _stop_over_the_cut(trajectory.response_token_ids, generation.token_ids, sampling.stop, decode)
        if stopped_at is not None:
            reason, num_tokens = "stop", stopped_at
    segments = tuple(
        _segment(generation, span.start, min(span.end, num_tokens), span.version)
        for span in generation.versions
        if span.start < num_tokens
    )
    return SegmentRecord(key=key, segments=segments, finish_reason=reason)


def extended(trajectory: Trajectory, record: SegmentRecord) -> Trajectory:
    return replace(trajectory, segments=trajectory.segments + record.segments, finish_reason=record.finish_reason)


def _segment(generation: Generation, start: int, end: int, version: int) -> Segment:
    return Segment(
        kind="sampled",
        token_ids=generation.token_ids[start:end],
        logprobs=generation.logprobs[start:end],
        loss_mask=(True,) * (end - start),
        versions=(VersionSpan(version=version, start=0, end=end - start),),
    )


def _stop_over_the_cut(
    before: tuple[int, ...], added: tuple[int, ...], stop: tuple[str, ...], decode: Decode
) -> int | None:
    """vLLM looks for stop strings in what it generates itself: one that begins in an earlier piece is found here.

    Returns:
        How many of `added` the response keeps, up to the token that completes the string; None where there is none.
    """
    longest = max(map(len, stop), default=0)
    seen = decode(before)
    for count in range(1, min(longest, len(added)) + 1):
        text = decode(before + added[:count])
        tail = text[max(0, len(seen) - longest + 1) :]
        if any(string in tail for string in stop):
            return count
    return None
