"""Segments are durable when recorded, groups come back as they were, in a checkpoint and without one."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_k15.errors import ReplayError
from megatron_k15.replay.buffer import ReplayBuffer
from megatron_k15.replay.journal import log_files
from megatron_k15.replay.records import from_bytes, to_bytes
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

PROMPTS = {name: Prompt(id=name, token_ids=(1, 2), text="", answer="") for name in ("a", "b")}


def _segment(version: int, *tokens: int) -> Segment:
    return Segment(
        kind="sampled",
        token_ids=tokens,
        logprobs=tuple(-0.1 * token for token in tokens),
        loss_mask=tuple(token % 2 == 0 for token in tokens),
        versions=(VersionSpan(version=version, start=0, end=len(tokens)),),
    )


def _record(iteration: int, sample_index: int, offset: int, reason: FinishReason, *segments: Segment) -> SegmentRecord:
    key = SegmentKey(iteration=iteration, drawn_iteration=3, prompt_id="a", sample_index=sample_index, offset=offset)
    return SegmentRecord(key=key, segments=segments, finish_reason=reason)


def _record_all(buffer: ReplayBuffer, *records: SegmentRecord) -> None:
    async def all_at_once() -> None:
        await buffer.journal.start_iteration(records[0].key.iteration)
        await asyncio.gather(*(buffer.journal.record(record) for record in records))

    asyncio.run(all_at_once())


ITERATION_3 = (_record(3, 0, 0, "budget", _segment(3, 11, 12)), _record(3, 1, 0, "stop", _segment(3, 13)))
ITERATION_4 = (_record(4, 0, 2, "budget", _segment(4, 14), _segment(5, 15, 16)),)


def _group(*records: SegmentRecord) -> SampledGroup:
    """Group `a` after these records."""
    trajectories = []
    for index in range(2):
        mine = [record for record in records if record.key.sample_index == index]
        trajectories.append(
            Trajectory(
                prompt_id="a",
                sample_index=index,
                prompt_token_ids=(1, 2),
                segments=tuple(segment for record in mine for segment in record.segments),
                finish_reason=mine[-1].finish_reason,
            )
        )
    return SampledGroup(prompt=PROMPTS["a"], drawn_iteration=3, trajectories=tuple(trajectories))


@pytest.fixture
def buffer(tmp_path: Path) -> ReplayBuffer:
    """After iterations 3 and 4, group `a` still open."""
    buffer = ReplayBuffer(tmp_path / "replay", run="r")
    _record_all(buffer, *ITERATION_3)
    _record_all(buffer, *ITERATION_4)
    buffer.keep([_group(*ITERATION_3, *ITERATION_4)])
    return buffer


def test_bytes_hold_a_record_exactly() -> None:
    record = _record(4, 0, 2, "budget", _segment(4, 14), _segment(5, 15, 16))
    record = replace(record, segments=(replace(record.segments[0], logprobs=(-1 / 3,)), record.segments[1]))
    assert from_bytes(to_bytes(record, run="r")) == record


def test_an_open_group_comes_back_token_by_token(buffer: ReplayBuffer) -> None:
    assert buffer.unfinished() == [_group(*ITERATION_3, *ITERATION_4)]
    # At the start of iteration 4, what a killed run sampled in iteration 4 does not belong to it yet.
    buffer.keep([_group(*ITERATION_3)])
    assert buffer.unfinished() == [_group(*ITERATION_3)]


def test_a_killed_run_finds_what_it_sampled_and_another_run_does_not(buffer: ReplayBuffer, tmp_path: Path) -> None:
    again = ReplayBuffer(tmp_path / "replay", run="r")
    assert again.journal.num_recovered(4) == 1
    assert asyncio.run(again.journal.find(ITERATION_4[0].key)) == ITERATION_4[0]
    other = ReplayBuffer(tmp_path / "replay", run="other")
    assert other.journal.num_recovered(0) == 0
    assert asyncio.run(other.journal.find(ITERATION_4[0].key)) is None


def test_a_checkpoint_stands_by_itself(buffer: ReplayBuffer, tmp_path: Path) -> None:
    """The names in its state, the segments in its files: nothing of the run's own folder is needed."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    state = buffer.state()
    for name, path in buffer.attachments(5).items():
        os.link(path, checkpoint / name)
    elsewhere = ReplayBuffer(tmp_path / "elsewhere", run="changed")
    elsewhere.load_state(state, PROMPTS, checkpoint)
    assert elsewhere.unfinished() == buffer.unfinished()
    with pytest.raises(ReplayError, match="prompts that are gone: \\['a'\\]"):
        ReplayBuffer(tmp_path / "third", run="r").load_state(state, {}, checkpoint)


def test_files_stay_as_long_as_an_open_group_needs_them(buffer: ReplayBuffer, tmp_path: Path) -> None:
    buffer.discard_before(5)
    assert list(log_files(tmp_path / "replay")) == [3, 4]
    buffer.keep([])
    assert buffer.attachments(5) == {}
    buffer.discard_before(4)
    assert list(log_files(tmp_path / "replay")) == [4]
    assert buffer.journal.num_recovered(0) == 1
    asyncio.run(buffer.journal.start_iteration(5))
    buffer.discard_before(5)
    assert log_files(tmp_path / "replay") == {}


def test_a_missing_segment_is_named(buffer: ReplayBuffer, tmp_path: Path) -> None:
    (tmp_path / "replay" / "iteration_0000004.log").unlink()
    again = ReplayBuffer(tmp_path / "replay", run="r")
    again.keep([_group(*ITERATION_3, *ITERATION_4)])
    with pytest.raises(ReplayError, match=r"lacks SegmentKey.*sample_index=0, offset=2"):
        again.unfinished()
