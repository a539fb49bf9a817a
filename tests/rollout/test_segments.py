"""Responses in pieces: budgets, ends, cuts between weight versions, stop strings over a cut, the staleness limit."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from megatron_k15.config import RolloutConfig
from megatron_k15.engines.types import GenerateRequest, Generation
from megatron_k15.rollout.generation import generate_groups
from megatron_k15.rollout.sampling import Sampling
from megatron_k15.rollout.segments import key_of, new_groups, record_of
from megatron_k15.rollout.staleness import settle
from megatron_k15.types import Prompt, SampledGroup, SegmentKey, SegmentRecord, VersionSpan

PROMPT = Prompt(id="p", token_ids=(90, 91), text="", answer="")
SAMPLING = Sampling(num_responses=2, max_tokens=10, budget_tokens=4)
LENGTHS = (3, 9)
"""Where the two responses would end by themselves."""


class Counting:
    """Continues 0, 1, 2, … up to the response's own length; sample i's tokens have logprob -i - 1."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.requests: list[GenerateRequest] = []

    async def generate(self, request: GenerateRequest) -> Generation:
        self.requests.append(request)
        sample = int(request.request_key.split("#")[1].split("@")[0])
        offset = len(request.token_ids) - len(PROMPT.token_ids)
        end = min(LENGTHS[sample], offset + request.max_tokens)
        count = end - offset
        return Generation(
            token_ids=tuple(range(offset, end)),
            logprobs=(-sample - 1.0,) * count,
            finish_reason="stop" if end == LENGTHS[sample] else "length",
            versions=(VersionSpan(version=self.version, start=0, end=count),),
        )


class Recorded:
    """A journal in memory."""

    def __init__(self) -> None:
        self.records: dict[SegmentKey, SegmentRecord] = {}

    async def find(self, key: SegmentKey) -> SegmentRecord | None:
        return self.records.get(key)

    async def record(self, record: SegmentRecord) -> None:
        self.records[record.key] = record

    async def start_iteration(self, iteration: int) -> None: ...


def _decode(token_ids: Sequence[int]) -> str:
    return "".join(chr(97 + token) for token in token_ids)


def _advance(pool: Counting, group: SampledGroup, iteration: int, journal: Recorded, **changes: int) -> SampledGroup:
    async def advanced() -> list[SampledGroup]:
        groups = generate_groups(
            pool,
            [group],
            replace(SAMPLING, **changes),
            decode=_decode,
            run_seed=0,
            iteration=iteration,
            journal=journal,
        )
        return [group async for group in groups]

    (after,) = asyncio.run(advanced())
    return after


def test_a_response_goes_on_from_iteration_to_iteration_within_its_budget() -> None:
    """9 tokens at 4 per iteration: 4 + 4 + 1, each piece of its own weight version; the other response ends at once."""
    (group,) = new_groups([PROMPT], 2, 5)
    journal = Recorded()
    for iteration, ends in ((5, [3, 4]), (6, [3, 8]), (7, [3, 9])):
        assert not group.is_complete
        pool = Counting(version=iteration)
        group = _advance(pool, group, iteration, journal)
        assert [trajectory.num_response_tokens for trajectory in group.trajectories] == ends
    assert [len(request.token_ids) for request in pool.requests] == [2 + 8]
    assert pool.requests[0].max_tokens == 2
    short, long = group.trajectories
    assert group.is_complete
    assert [trajectory.finish_reason for trajectory in group.trajectories] == ["stop", "stop"]
    assert long.response_token_ids == tuple(range(9))
    assert long.response_logprobs == (-2.0,) * 9
    assert [(segment.versions[0].version, len(segment.token_ids)) for segment in long.segments] == [
        (5, 4),
        (6, 4),
        (7, 1),
    ]
    assert (short.text, long.text) == ("abc", "abcdefghi")
    assert group.oldest_version == 5


def test_the_maximum_length_ends_a_response_and_the_budget_does_not() -> None:
    (group,) = new_groups([PROMPT], 2, 0)
    journal = Recorded()
    reasons = []
    for iteration in range(2):
        group = _advance(Counting(version=iteration), group, iteration, journal, max_tokens=8)
        reasons.append(group.trajectories[1].finish_reason)
    assert reasons == ["budget", "length"]


def test_what_the_journal_has_is_not_sampled_again() -> None:
    (group,) = new_groups([PROMPT], 2, 0)
    journal = Recorded()
    first = _advance(Counting(version=0), group, 0, journal)
    after_a_kill = Counting(version=0)
    assert _advance(after_a_kill, group, 0, journal) == first
    assert after_a_kill.requests == []


def test_pieces_are_cut_where_the_weights_changed() -> None:
    (group,) = new_groups([PROMPT], 1, 0)
    trajectory = group.trajectories[0]
    generation = Generation(
        token_ids=(1, 2, 3),
        logprobs=(-0.1, -0.2, -0.3),
        finish_reason="stop",
        versions=(VersionSpan(version=4, start=0, end=1), VersionSpan(version=5, start=1, end=3)),
    )
    record = record_of(key_of(group, trajectory, 0), trajectory, generation, SAMPLING, _decode)
    assert [(s.token_ids, s.logprobs, s.versions) for s in record.segments] == [
        ((1,), (-0.1,), (VersionSpan(version=4, start=0, end=1),)),
        ((2, 3), (-0.2, -0.3), (VersionSpan(version=5, start=0, end=2),)),
    ]


@pytest.mark.parametrize(("stop", "length"), [("de", 5), ("cdef", 6), ("xy", 8), ("gh", 8)])
def test_a_stop_string_that_spans_a_cut_ends_the_response(stop: str, length: int) -> None:
    """The first piece is `abcd`. `gh` lies within the second, where vLLM itself would have seen it."""
    (group,) = new_groups([PROMPT], 2, 0)
    pool, journal = Counting(version=0), Recorded()
    sampling = {"stop": (stop,)}
    for iteration in range(2):
        group = _advance(pool, group, iteration, journal, **sampling)  # type: ignore[arg-type]
    long = group.trajectories[1]
    assert long.num_response_tokens == length
    assert long.finish_reason == ("stop" if length < 8 else "budget")


def _after_iteration_5() -> SampledGroup:
    (group,) = new_groups([PROMPT], 2, 5)
    return _advance(Counting(version=5), group, 5, Recorded())


def test_a_group_waits_as_long_as_the_staleness_limit_allows() -> None:
    """Its oldest token is of version 5. In iteration 7 that is 2 versions back."""
    group = _after_iteration_5()
    config = RolloutConfig(max_staleness=2, budget_tokens=4)
    assert settle([group], config, iteration=6).waiting == [group]
    (ended,) = settle([group], config, iteration=7).ended
    assert ended.is_complete
    assert [trajectory.finish_reason for trajectory in ended.trajectories] == ["stop", "aborted"]
    assert ended.trajectories[1].segments == group.trajectories[1].segments
    dropping = replace(config, at_max_staleness="drop")
    assert settle([group], dropping, iteration=7).dropped == [group]
    assert settle([group], RolloutConfig(), iteration=1000).waiting == [group]
