"""What one iteration's rollout looked like, as named numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import get_args

from megatron_k15.types import FinishReason, Group


def iteration_metrics(groups: Sequence[Group], *, version: int, seconds: Mapping[str, float]) -> dict[str, float]:
    """Metrics over the groups that entered training at weight version `version`.

    Args:
        seconds: wall-clock seconds per phase.
    """
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    scores = [score for group in groups for score in group.scores]
    lengths = [trajectory.num_response_tokens for trajectory in trajectories]
    reasons = Counter(trajectory.finish_reason for trajectory in trajectories)
    total_seconds = sum(seconds.values())
    values = {
        "reward/mean": fmean(score.reward for score in scores),
        "reward/accuracy": fmean(score.correct for score in scores),
        "reward/zero_variance_groups": float(
            sum(len({score.reward for score in group.scores}) == 1 for group in groups)
        ),
        "rollout/mean_response_tokens": fmean(lengths),
        "rollout/max_response_tokens": float(max(lengths)),
        "rollout/staleness": fmean(version - trajectory.oldest_version for trajectory in trajectories),
        "rollout/tokens_per_second": sum(lengths) / max(seconds.get("rollout", 0.0), 1e-9),
        "time/iteration_seconds": total_seconds,
        "time/tokens_per_second": sum(lengths) / max(total_seconds, 1e-9),
    }
    values |= {f"time/{phase}_seconds": value for phase, value in seconds.items()}
    values |= {
        f"rollout/finished_by_{reason}": reasons[reason] / len(trajectories) for reason in get_args(FinishReason)
    }
    values |= _accuracy_by_task(groups)
    parts = {name for score in scores for name in score.parts}
    values |= {f"reward/{name}": fmean(score.parts.get(name, 0.0) for score in scores) for name in sorted(parts)}
    return values


def _accuracy_by_task(groups: Sequence[Group]) -> dict[str, float]:
    """One curve per kind of task (math, code, …), where there are several."""
    rates: dict[str, list[float]] = {}
    for group in groups:
        rates.setdefault(group.prompt.task.partition(":")[0], []).append(group.success_rate)
    return {f"reward/accuracy_{task}": fmean(rates[task]) for task in sorted(rates)} if len(rates) > 1 else {}
