"""The values that cross rooms: prompts, trajectories made of segments, scored groups.

All are frozen. Host lists only, no tensors: these values are written to disk, sent between processes and
shown to people. `PackedBatch`, which holds tensors, lives in `training/packing.py`.

Example::

    prompt = Prompt(id="chain_sum/17", token_ids=(2, 45, 8), text="12 + 7 =", answer="19")
    segment = Segment(kind="sampled", token_ids=(33, 41), logprobs=(-0.1, -0.7), loss_mask=(True, True),
                      versions=(VersionSpan(version=3, start=0, end=2),))
    trajectory = Trajectory(prompt_id=prompt.id, sample_index=0, prompt_token_ids=prompt.token_ids,
                            segments=(segment,), finish_reason="stop", text="19")
    trajectory.response_token_ids    # (33, 41)
    trajectory.oldest_version        # 3
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

FinishReason = Literal["stop", "length", "budget", "repetition", "aborted"]
"""Why a response ended: the model ended it; its maximum length; this iteration's token budget (it goes on in the
next); repetition found inside vLLM; given up by us."""

SegmentKind = Literal["prompt", "sampled", "observation"]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One problem x. `token_ids` is what the model reads (chat template applied)."""

    id: str
    """Unique over the prompt set and stable over runs: sampler statistics and resume rely on it."""
    token_ids: tuple[int, ...]
    text: str
    """The question as a person reads it."""
    answer: str
    task: str = "math"
    """Names the reward that judges it: `math`, `code`, or `reasoning_gym:<task>`."""
    tags: tuple[str, ...] = ()
    difficulty: float | None = None
    """0 (easy) to 1 (hard); None where the source has none."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """What a task's own verifier needs (JSON values)."""


@dataclass(frozen=True, kw_only=True)
class VersionSpan:
    """Tokens [start, end) of a segment were sampled by weight version `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of tokens of one kind. For `sampled`, logprobs are the behaviour policy's (vLLM's), one per token."""

    kind: SegmentKind
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    loss_mask: tuple[bool, ...]
    versions: tuple[VersionSpan, ...]

    def __post_init__(self) -> None:
        count = len(self.token_ids)
        if not len(self.logprobs) == len(self.loss_mask) == count:
            raise ValueError(
                f"a segment needs one logprob and one mask value per token: {count} tokens, "
                f"{len(self.logprobs)} logprobs, {len(self.loss_mask)} mask values"
            )
        covered = [(span.start, span.end) for span in self.versions]
        gaps = any(first[1] != second[0] for first, second in pairwise(covered))
        if count and (gaps or covered[0][0] != 0 or covered[-1][1] != count):
            raise ValueError(f"version spans must cover tokens 0..{count} without gaps, got {covered}")


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One response (y, z) to one prompt, finished or not, as the segments it was made in."""

    prompt_id: str
    sample_index: int
    prompt_token_ids: tuple[int, ...]
    segments: tuple[Segment, ...]
    finish_reason: FinishReason
    text: str = ""
    """The response, decoded."""

    @property
    def response_token_ids(self) -> tuple[int, ...]:
        return tuple(token for segment in self.segments for token in segment.token_ids)

    @property
    def response_logprobs(self) -> tuple[float, ...]:
        return tuple(value for segment in self.segments for value in segment.logprobs)

    @property
    def response_loss_mask(self) -> tuple[bool, ...]:
        return tuple(value for segment in self.segments for value in segment.loss_mask)

    @property
    def num_response_tokens(self) -> int:
        return sum(len(segment.token_ids) for segment in self.segments)

    @property
    def is_open(self) -> bool:
        """True while it has to be continued."""
        return self.finish_reason == "budget"

    @property
    def oldest_version(self) -> int:
        """The oldest weight version that sampled a token of it; it must have one."""
        return min(span.version for segment in self.segments for span in segment.versions)


@dataclass(frozen=True, kw_only=True)
class SampledGroup:
    """The k responses of one prompt as far as they have got (§2.6.2). Scored as a `Group` when all have ended."""

    prompt: Prompt
    drawn_iteration: int
    """When the prompt was drawn: with its id, the group's name. A prompt may be drawn again while it is open."""
    trajectories: tuple[Trajectory, ...]

    @property
    def key(self) -> tuple[int, str]:
        return self.drawn_iteration, self.prompt.id

    @property
    def is_complete(self) -> bool:
        return not any(trajectory.is_open for trajectory in self.trajectories)

    @property
    def oldest_version(self) -> int | None:
        """Over all its tokens; None before the first one."""
        return min((trajectory.oldest_version for trajectory in self.trajectories if trajectory.segments), default=None)


@dataclass(frozen=True, kw_only=True)
class SegmentKey:
    """Names what one request sampled. With the run's seed it decides the sampling seed, the iteration aside: that is
    the one in which the request was made."""

    iteration: int
    drawn_iteration: int
    prompt_id: str
    sample_index: int
    offset: int
    """Tokens that the response had before."""


@dataclass(frozen=True, kw_only=True)
class SegmentRecord:
    """What one request sampled, as the replay buffer keeps it."""

    key: SegmentKey
    segments: tuple[Segment, ...]
    """One per weight version."""
    finish_reason: FinishReason


@dataclass(frozen=True, kw_only=True)
class Score:
    """What the rewards made of one trajectory. `correct` stands apart from `reward`: it drives s_i (§2.3.4) and
    the length reward (§2.3.3)."""

    reward: float
    correct: bool
    parts: Mapping[str, float]
    """Each reward term by name, weighted; they sum to `reward`."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The k responses of one prompt, scored: the unit of the mirror-descent baseline (§2.3.2)."""

    prompt: Prompt
    trajectories: tuple[Trajectory, ...]
    scores: tuple[Score, ...]

    def __post_init__(self) -> None:
        if len(self.trajectories) != len(self.scores):
            raise ValueError(
                f"prompt {self.prompt.id}: {len(self.trajectories)} trajectories but {len(self.scores)} scores"
            )

    @property
    def success_rate(self) -> float:
        return sum(score.correct for score in self.scores) / len(self.scores)


@dataclass(frozen=True, kw_only=True)
class TrainingSequence:
    """One sequence as the trainer sees it. Lists are aligned with `token_ids`; position t's loss mask and behaviour
    logprob speak of *token t itself* (as predicted from t-1), so index 0 is never in the loss."""

    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    behaviour_logprobs: tuple[float, ...]
    """0.0 where the mask is False."""
    advantage: float = 0.0
    """a_j = r_j - baseline (§2.3.2)."""
    label: float = 0.0
    """What a reward model has to say: 1 right, 0 wrong."""
    reference: float = 0.0
    """Σ log π of its tokens in the loss under DPO's reference model."""
    weight: float = 1.0
    """This sequence's share in the loss: 1/(k * number of problems) for the policy loss, 1/(tokens in the step's loss)
    for cross entropy, where every token has it, 1/(sequences or pairs in the step) for reward models and DPO."""

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens before the first one in the loss."""
        return self.loss_mask.index(True) if True in self.loss_mask else len(self.token_ids)
