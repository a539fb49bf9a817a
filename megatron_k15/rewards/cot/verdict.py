"""What the judging model wrote → a verdict, strictly: anything but the JSON that was asked for is none."""

import json

from megatron_k15.rewards.verdicts import Verdict


def read_verdict(text: str) -> Verdict:
    """None unless `text` is exactly {"reasoning": <string>, "correct": <boolean>}."""
    try:
        said = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or set(said) != {"reasoning", "correct"} or not isinstance(said["reasoning"], str):
        return None
    return said["correct"] if isinstance(said["correct"], bool) else None


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def majority(votes: list[Verdict]) -> Verdict:
    """Of the votes that are one; a tie is none."""
    right, wrong = votes.count(True), votes.count(False)
    return None if right == wrong else right > wrong
