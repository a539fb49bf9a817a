"""What a replay buffer's folder (a run's, or a checkpoint's) holds, read without changing it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from megatron_k15.errors import ReplayError
from megatron_k15.replay.record_file import read, scan
from megatron_k15.replay.records import from_bytes, read_facts
from megatron_k15.types import SegmentRecord


@dataclass(kw_only=True)
class ResponseSummary:
    """One response, from its records."""

    sample_index: int
    num_tokens: int = 0
    num_segments: int = 0
    finish_reason: str = "budget"
    versions: set[int] = field(default_factory=set)


@dataclass(kw_only=True)
class GroupSummary:
    prompt_id: str
    drawn_iteration: int
    responses: dict[int, ResponseSummary] = field(default_factory=dict)

    @property
    def num_open(self) -> int:
        return sum(response.finish_reason == "budget" for response in self.responses.values())


@dataclass(kw_only=True)
class FileSummary:
    path: Path
    num_bytes: int
    num_records: int = 0
    num_torn_bytes: int = 0
    """At its end, of a write that was cut short."""
    problem: str = ""
    """What is damaged, "" if nothing."""


def record_files(folder: Path) -> list[Path]:
    """
    Raises:
        ReplayError: there are none.
    """
    places = (folder, folder / "replay")
    for place in places:
        if found := sorted(place.glob("*iteration_*.log")):
            return found
    raise ReplayError(f"{folder} has no replay buffer: give the run_dir of a run, or one of its checkpoints")


def summarise(folder: Path) -> tuple[list[FileSummary], list[GroupSummary]]:
    """Files as they are on the disk; groups in the order in which they were drawn.

    Raises:
        ReplayError: there are no files.
    """
    groups: dict[tuple[int, str], GroupSummary] = {}
    files = []
    for path in record_files(folder):
        summary = FileSummary(path=path, num_bytes=path.stat().st_size)
        files.append(summary)
        end = 0
        try:
            for place, payload in scan(path):
                summary.num_records += 1
                end = place.offset + place.num_bytes
                _add(groups, from_bytes(payload))
            summary.num_torn_bytes = summary.num_bytes - end
        except ReplayError as error:
            summary.problem = str(error)
    return files, [groups[key] for key in sorted(groups)]


def records_of(folder: Path, prompt_id: str) -> Iterator[SegmentRecord]:
    """All that was sampled for one prompt, oldest first."""
    for path in record_files(folder):
        for place, payload in scan(path):
            if read_facts(payload).key.prompt_id == prompt_id:
                yield from_bytes(read(place))


def _add(groups: dict[tuple[int, str], GroupSummary], record: SegmentRecord) -> None:
    key = record.key
    group = groups.setdefault(
        (key.drawn_iteration, key.prompt_id),
        GroupSummary(prompt_id=key.prompt_id, drawn_iteration=key.drawn_iteration),
    )
    response = group.responses.setdefault(key.sample_index, ResponseSummary(sample_index=key.sample_index))
    response.num_tokens = key.offset + sum(len(segment.token_ids) for segment in record.segments)
    response.num_segments += len(record.segments)
    response.finish_reason = record.finish_reason
    response.versions |= {span.version for segment in record.segments for span in segment.versions}
