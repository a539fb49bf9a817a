"""Which training sequences share a micro-batch (`micro_batch.py`), balanced over the data-parallel ranks.

A sequence is never split: log π of a response is the sum over its tokens, and the loss squares that sum. Every rank
gets equally many micro-batches, which the pipeline schedules and the gradient reduction rely on. The responses to one
prompt stay together where they fit and share its tokens (`packed_tokens.py`): what they compute is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from megatron_k15.kernels.packing import best_fit
from megatron_k15.types import TrainingSequence


@dataclass(frozen=True, kw_only=True)
class Family:
    """Sequences that stay together in a micro-batch, to share their prompt."""

    members: tuple[int, ...]
    num_tokens: int
    """With the prompt counted once."""
    cost: float


def families(
    sequences: Sequence[TrainingSequence], *, share_prompts: bool, max_tokens: int, hidden_size: int
) -> list[Family]:
    """Sequences with one prompt, in parts of at most `max_tokens`; without `share_prompts` each by itself.

    A sequence longer than `max_tokens` is a family of its own.

    Args:
        hidden_size: sets what attention, quadratic in length, weighs against the rest of a layer.
    """
    by_prompt: dict[object, list[int]] = {}
    for index, sequence in enumerate(sequences):
        key = sequence.token_ids[: sequence.num_prompt_tokens] if share_prompts else index
        by_prompt.setdefault(key, []).append(index)
    found = []
    for indices in by_prompt.values():
        prompt = sequences[indices[0]].num_prompt_tokens
        members: list[int] = []
        tokens = prompt
        for index in indices:
            more = len(sequences[index].token_ids) - prompt
            if members and tokens + more > max_tokens:
                found.append(_family(members, tokens, sequences, hidden_size))
                members, tokens = [], prompt
            members.append(index)
            tokens += more
        found.append(_family(members, tokens, sequences, hidden_size))
    return found


def _family(members: Sequence[int], tokens: int, sequences: Sequence[TrainingSequence], hidden_size: int) -> Family:
    attention = sum(len(sequences[index].token_ids) ** 2 for index in members)
    return Family(members=tuple(members), num_tokens=tokens, cost=12.0 * hidden_size * tokens + attention)


def pack_sizes(micro_batches: Sequence[Sequence[Family]], *, multiple: int, equal: bool) -> list[int]:
    """Tokens of each pack with its filler: a multiple of `multiple`, at least one, and all alike where `equal`."""
    sizes = [sum(family.num_tokens for family in members) for members in micro_batches]
    sizes = [max(1, -(-size // multiple)) * multiple for size in sizes]
    return [max(sizes)] * len(sizes) if equal else sizes


def assign(units: Sequence[Family], *, data_size: int, max_tokens: int, multiple: int = 1) -> list[list[list[Family]]]:
    """[data rank][micro-batch] → the families in it.

    Most expensive first, each to the cheapest micro-batch with room: total cost per rank and per micro-batch comes out
    even. Where that leaves a family without room in as few micro-batches as best fit needs, best fit's packs are taken.
    Some micro-batches may be empty.

    Args:
        max_tokens: of one micro-batch; a longer family gets one of its own.
        multiple: the number of micro-batches per rank is a multiple of this (interleaved schedule).
    """
    total = sum(min(unit.num_tokens, max_tokens) for unit in units)
    fewest = max(1, -(-total // (max_tokens * data_size)))
    packs = best_fit([unit.num_tokens for unit in units], max_tokens)
    fitted = [[units[index] for index in pack] for pack in packs]
    tries = (_fill_or(fitted, units, n * data_size, max_tokens) for n in count(fewest) if n % multiple == 0)
    bins = next(found for found in tries if found is not None)
    return [[sorted(members, key=lambda f: f.members) for members in rank] for rank in deal(bins, data_size)]


def deal(bins: Sequence[list[Family]], data_size: int) -> list[list[list[Family]]]:
    """[data rank][micro-batch] → the families in it: equally many micro-batches of alike cost; len(bins) divides."""
    assert len(bins) % data_size == 0, f"{len(bins)} micro-batches over {data_size} ranks"
    ranks: list[list[list[Family]]] = [[] for _ in range(data_size)]
    for index, members in enumerate(sorted(bins, key=lambda members: -sum(family.cost for family in members))):
        turn, place = divmod(index, data_size)
        # Back and forth, so that no rank always gets the larger one.
        ranks[place if turn % 2 == 0 else data_size - 1 - place].append(members)
    return ranks


def _fill_or(
    fitted: list[list[Family]], units: Sequence[Family], num_bins: int, max_tokens: int
) -> list[list[Family]] | None:
    bins = _fill(units, num_bins, max_tokens)
    if bins is None and len(fitted) <= num_bins:
        return [*fitted, *([] for _ in range(num_bins - len(fitted)))]
    return bins


def _fill(units: Sequence[Family], num_bins: int, max_tokens: int) -> list[list[Family]] | None:
    bins: list[list[Family]] = [[] for _ in range(num_bins)]
    tokens = [0] * num_bins
    loads = [0.0] * num_bins
    for unit in sorted(units, key=lambda unit: (-unit.cost, unit.members)):
        room = [b for b in range(num_bins) if not bins[b] or tokens[b] + unit.num_tokens <= max_tokens]
        if not room:
            return None
        best = min(room, key=lambda b: (loads[b], b))
        bins[best].append(unit)
        tokens[best] += unit.num_tokens
        loads[best] += unit.cost
    return bins
