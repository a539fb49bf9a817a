"""Which groups wait for their next iteration (§2.6.2). Names in memory, segments in the journal on the disk.

    unfinished() → (rollout of iteration i, which records segments in `journal`) → keep(open groups) → checkpoint

A checkpoint holds the names and links to the journal's files in which their segments are, so it stands by itself; the
journal's own files go back to the oldest checkpoint that is kept, so that a run that dies samples nothing twice.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from megatron_k15.errors import ReplayError
from megatron_k15.replay.journal import SegmentJournal, log_files
from megatron_k15.types import FinishReason, Prompt, SampledGroup, Segment, SegmentKey, Trajectory

LINK_PREFIX = "replay_"


class _Open(NamedTuple):
    prompt: Prompt
    drawn_iteration: int
    lengths: tuple[int, ...]
    """Tokens of each response. The journal may have more: of an iteration that a killed run did not finish."""


class ReplayBuffer:
    def __init__(self, directory: Path, *, run: str) -> None:
        """
        Args:
            run: see `SegmentJournal`.

        Raises:
            ReplayError: a file of `directory` is damaged.
        """
        self.journal = SegmentJournal(directory, run=run)
        self._open: list[_Open] = []

    @property
    def num_open(self) -> int:
        return len(self._open)

    def unfinished(self) -> list[SampledGroup]:
        """The groups that wait, with what has been sampled of them; the oldest first.

        Raises:
            ReplayError: the journal lacks a segment.
        """
        return [self._rebuild(entry) for entry in self._open]

    def keep(self, groups: Sequence[SampledGroup]) -> None:
        """From now on these wait, and no others."""
        self._open = [
            _Open(
                group.prompt,
                group.drawn_iteration,
                tuple(trajectory.num_response_tokens for trajectory in group.trajectories),
            )
            for group in sorted(groups, key=lambda group: group.key)
        ]

    def attachments(self, iteration: int) -> dict[str, Path]:
        """Name in a checkpoint → the journal's file: all that the waiting groups need at the start of `iteration`."""
        if not self._open:
            return {}
        oldest = min(entry.drawn_iteration for entry in self._open)
        files = log_files(self.journal.directory)
        return {LINK_PREFIX + path.name: path for number, path in files.items() if oldest <= number < iteration}

    def state(self) -> dict[str, Any]:
        """JSON-able; goes into a checkpoint with `attachments`."""
        waiting = [[entry.prompt.id, entry.drawn_iteration, entry.lengths] for entry in self._open]
        return {"waiting": waiting}

    def load_state(self, state: Mapping[str, Any], prompts: Mapping[str, Prompt], checkpoint: Path) -> None:
        """Wait for what the checkpoint waited for.

        Args:
            prompts: by id.

        Raises:
            ReplayError: a segment or a prompt is missing.
        """
        for path in sorted(checkpoint.glob(f"{LINK_PREFIX}iteration_*.log")):
            self.journal.adopt(path, path.name.removeprefix(LINK_PREFIX))
        missing = [prompt_id for prompt_id, _, _ in state["waiting"] if prompt_id not in prompts]
        if missing:
            raise ReplayError(f"unfinished responses of {checkpoint} belong to prompts that are gone: {missing[:5]}")
        self._open = [
            _Open(prompts[prompt_id], drawn_iteration, tuple(lengths))
            for prompt_id, drawn_iteration, lengths in state["waiting"]
        ]

    def discard_before(self, iteration: int) -> None:
        """Remove the journal's files of earlier iterations, save those that waiting groups need."""
        self.journal.discard_before(min([iteration, *(entry.drawn_iteration for entry in self._open)]))

    def close(self) -> None:
        self.journal.close()

    def _rebuild(self, entry: _Open) -> SampledGroup:
        return SampledGroup(
            prompt=entry.prompt,
            drawn_iteration=entry.drawn_iteration,
            trajectories=tuple(self._trajectory(entry, index) for index in range(len(entry.lengths))),
        )

    def _trajectory(self, entry: _Open, sample_index: int) -> Trajectory:
        """Piece after piece, until the response is as long as it was."""
        segments: tuple[Segment, ...] = ()
        reason: FinishReason = "budget"
        iteration, length = entry.drawn_iteration, 0
        while length < entry.lengths[sample_index]:
            key = SegmentKey(
                iteration=iteration,
                drawn_iteration=entry.drawn_iteration,
                prompt_id=entry.prompt.id,
                sample_index=sample_index,
                offset=length,
            )
            record = self.journal.next_piece(key)
            if record is None:
                raise ReplayError(f"the replay buffer in {self.journal.directory} lacks {key}")
            segments, reason = segments + record.segments, record.finish_reason
            iteration, length = record.key.iteration, sum(len(segment.token_ids) for segment in segments)
        return Trajectory(
            prompt_id=entry.prompt.id,
            sample_index=sample_index,
            prompt_token_ids=entry.prompt.token_ids,
            segments=segments,
            finish_reason=reason,
        )
