"""What one iteration's rollout looked like, as named numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import get_args

from megatron_k15.types import FinishReason, Group


def iteration_metrics(
    groups: Sequence[Group], *, version: int, seconds: Mapping[str, float], num_sampled_tokens: int, max_tokens: int
) -> dict[str, float]:
    """Metrics over the groups that entered training at weight version `version`; there may be none of them.

    Args:
        seconds: wall-clock seconds per phase.
        num_sampled_tokens: in this iteration's rollout, unfinished responses included.
        max_tokens: longest response allowed.
    """
    total_seconds = sum(seconds.values())
    values = {
        "rollout/sampled_tokens": float(num_sampled_tokens),
        "rollout/tokens_per_second": num_sampled_tokens / max(seconds.get("rollout", 0.0), 1e-9),
        "time/iteration_seconds": total_seconds,
        "time/tokens_per_second": num_sampled_tokens / max(total_seconds, 1e-9),
    }
    values |= {f"time/{phase}_seconds": value for phase, value in seconds.items()}
    if groups:
        values |= _of_rewards(groups) | _of_responses(groups, version=version, max_tokens=max_tokens)
    return values


def _of_rewards(groups: Sequence[Group]) -> dict[str, float]:
    scores = [score for group in groups for score in group.scores]
    parts = {name for score in scores for name in score.parts}
    return {
        "reward/mean": fmean(score.reward for score in scores),
        "reward/accuracy": fmean(score.correct for score in scores),
        "reward/zero_variance_groups": float(
            sum(len({score.reward for score in group.scores}) == 1 for group in groups)
        ),
        **_accuracy_by_task(groups),
        **{f"reward/{name}": fmean(score.parts.get(name, 0.0) for score in scores) for name in sorted(parts)},
    }


def _of_responses(groups: Sequence[Group], *, version: int, max_tokens: int) -> dict[str, float]:
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    lengths = [trajectory.num_response_tokens for trajectory in trajectories]
    reasons = Counter(trajectory.finish_reason for trajectory in trajectories)
    repeating = [length for length, of in zip(lengths, trajectories, strict=True) if of.finish_reason == "repetition"]
    return {
        "rollout/mean_response_tokens": fmean(lengths),
        "rollout/max_response_tokens": float(max(lengths)),
        "rollout/mean_segments": fmean(len(trajectory.segments) for trajectory in trajectories),
        "rollout/staleness": fmean(version - trajectory.oldest_version for trajectory in trajectories),
        # At most: had they gone on to their maximum length.
        "rollout/tokens_saved_by_repetition": float(sum(max_tokens - length for length in repeating)),
        **{f"rollout/finished_by_{reason}": reasons[reason] / len(trajectories) for reason in get_args(FinishReason)},
    }


def _accuracy_by_task(groups: Sequence[Group]) -> dict[str, float]:
    """One curve per kind of task (math, code, …), where there are several."""
    rates: dict[str, list[float]] = {}
    for group in groups:
        rates.setdefault(group.prompt.task.partition(":")[0], []).append(group.success_rate)
    return {f"reward/accuracy_{task}": fmean(rates[task]) for task in sorted(rates)} if len(rates) > 1 else {}
