"""reasoning-gym tasks → `Question`s.

A question carries task `reasoning_gym:<name>` and, in `metadata`, what the task's verifier needs: the `settings` that
made the task and the `entry`'s own metadata, as JSON.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from megatron_k15.errors import DataError
from megatron_k15.prompts.question import Question

UNSUPPORTED = {
    "arc_agi": "its verifier compares Python tuples, which do not survive JSON",
    "rearc": "its verifier compares Python tuples, which do not survive JSON",
    "codeio": "it runs bundled programs to make questions",
    "composite": "it mixes tasks; name them one by one",
    "list_functions": "it does not repeat its questions for a given seed",
}
"""Tasks of reasoning_gym 0.1.25 that cannot be used here, and why."""


def unsupported(task: str) -> str | None:
    """Why a task cannot be used; None where it can."""
    if task in UNSUPPORTED:
        return UNSUPPORTED[task]
    if task not in _known_tasks():
        return "reasoning-gym has no such task"
    return None


@lru_cache(maxsize=1)
def _known_tasks() -> frozenset[str]:
    # reasoning_gym takes a second to import and is needed only where a task of it is named.
    import reasoning_gym  # noqa: F401
    from reasoning_gym.factory import DATASETS

    return frozenset(DATASETS)


def draws(task: str, settings: Mapping[str, Any], *, split: str, seed: int, limit: int) -> Iterator[Question]:
    """At most `limit` questions of a task, the same for the same arguments; texts may repeat.

    Args:
        split: `train` or `held_out`; each has a stream of its own.

    Raises:
        DataError: an unknown or unsupported task, or settings it refuses.
    """
    if reason := unsupported(task):
        raise DataError(f"prompts.reasoning_gym.{task}: {reason}")
    dataset = _dataset(task, settings, seed=_stream_seed(seed, task, split), size=limit)
    for index in range(limit):
        yield _question(task, settings, dataset[index], split=split, index=index)


def _stream_seed(seed: int, task: str, split: str) -> int:
    # reasoning-gym seeds question i with seed + i: streams whose seeds are near would repeat each other.
    return int.from_bytes(hashlib.sha256(f"{seed}/{task}/{split}".encode()).digest()[:4], "big")


def _dataset(task: str, settings: Mapping[str, Any], *, seed: int, size: int) -> Any:
    import reasoning_gym

    if reserved := {"seed", "size"} & settings.keys():
        raise DataError(
            f"prompts.reasoning_gym.{task}: {', '.join(sorted(reserved))} must not be set here; "
            "the run's seed and prompts.num_train decide"
        )
    try:
        return reasoning_gym.create_dataset(task, seed=seed, size=size, **settings)
    except (TypeError, AssertionError, ValueError) as error:  # how its configs refuse a value
        raise DataError(f"prompts.reasoning_gym.{task}: {error}") from error


def _question(task: str, settings: Mapping[str, Any], entry: Mapping[str, Any], *, split: str, index: int) -> Question:
    # Some tasks have many right answers and give none: their verifier needs the metadata alone.
    answer = "" if entry["answer"] is None else str(entry["answer"])
    name = task if split == "train" else f"{task}/{split}"
    return Question(
        id=f"{name}/{index}",
        text=entry["question"],
        answer=answer,
        task=f"reasoning_gym:{task}",
        metadata={"settings": dict(settings), "entry": json.loads(json.dumps(entry["metadata"]))},
        where=f"reasoning_gym.{task} ({split} question {index})",
    )
