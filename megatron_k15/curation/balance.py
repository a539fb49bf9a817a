"""Balance across subjects: no discipline has more than its share of the prompts that came this far (§2.1)."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence

from megatron_k15.curation.outcome import Candidate
from megatron_k15.curation.settings import CurationSettings


def balance(candidates: Sequence[Candidate], settings: CurationSettings) -> list[Candidate]:
    """All candidates; those beyond their discipline's cap are dropped, drawn by a hash of seed and id."""
    counts = Counter(candidate.discipline for candidate in candidates if candidate.is_in)
    cap = _cap(counts, settings.max_subject_share)
    ranks = _ranks(candidates, settings.seed)
    return [
        candidate.dropped(
            "over_represented",
            f"{candidate.discipline}: {counts[candidate.discipline]} of {counts.total()} prompts; at most {cap} stay",
        )
        if candidate.is_in and ranks[candidate.question.id] >= cap
        else candidate
        for candidate in candidates
    ]


def _cap(counts: Counter[str], share: float) -> int:
    """The share of all that came here, or an even share where there are few subjects: a rare subject beside a large one
    does not shrink it to its own size."""
    return math.ceil(max(share, 1 / max(len(counts), 1)) * counts.total())


def _ranks(candidates: Sequence[Candidate], seed: int) -> dict[str, int]:
    """Position of each candidate within its discipline in an order that only seed and ids decide."""
    places: Counter[str] = Counter()
    ranks = {}
    present = [candidate for candidate in candidates if candidate.is_in]
    for candidate in sorted(present, key=lambda one: _draw(seed, one.question.id)):
        ranks[candidate.question.id] = places[candidate.discipline]
        places[candidate.discipline] += 1
    return ranks


def _draw(seed: int, identifier: str) -> bytes:
    return hashlib.sha256(f"{seed}/{identifier}".encode()).digest()
