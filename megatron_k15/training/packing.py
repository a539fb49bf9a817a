"""Training sequences → micro-batches of packed sequences, balanced over the data-parallel ranks.

A sequence is never split: log π of a response is the sum over its tokens, and the loss squares that sum. Every rank
gets equally many micro-batches, which the pipeline schedules and the gradient reduction rely on. The responses to one
prompt stay together where they fit and share its tokens (`packed_tokens.py`): what they compute is the same.

Legend: T tokens of a pack, S its sequences, N its tokens in the loss.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from megatron_k15.kernels.packing import best_fit
from megatron_k15.models.packed_tokens import PackedTokens, Piece
from megatron_k15.types import TrainingSequence


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """One pack and what its loss needs. Position `rows_N[i]`'s hidden state predicts token `targets_N[i]`."""

    tokens: PackedTokens
    rows_N: Tensor
    targets_N: Tensor
    sequence_N: Tensor
    """Which of the pack's S sequences the token belongs to; ascending."""
    bounds: Tensor
    """[S + 1]: sequence j's tokens are bounds[j] to bounds[j + 1] of the N."""
    behaviour_N: Tensor
    """fp32: logprobs under the policy that sampled."""
    advantages_S: Tensor
    weights_S: Tensor
    sources: tuple[int, ...]
    """[S] each sequence's place in the list that was packed."""
    temperature: float = 1.0

    @classmethod
    def pack(
        cls,
        sequences: Sequence[TrainingSequence],
        sources: Sequence[int],
        *,
        num_tokens: int | None = None,
        share_prompts: bool = False,
        temperature: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> "MicroBatch":
        """Lay `sequences[i] for i in sources` end to end, filled up to `num_tokens` with what no loss sees.

        Those of `share_prompts` that begin with the same prompt have it in the pack once.
        """
        chosen = [sequences[index] for index in sources]
        pieces, places = _pieces(chosen, share_prompts=share_prompts)
        tokens = PackedTokens.pack(pieces, num_tokens=num_tokens, device=device)
        rows, targets, owners, behaviour, bounds = [], [], [], [], [0]
        for owner, (sequence, place) in enumerate(zip(chosen, places, strict=True)):
            for position, in_loss in enumerate(sequence.loss_mask):
                if in_loss and position:
                    rows.append(place.position(position - 1, tokens.starts))
                    targets.append(sequence.token_ids[position])
                    owners.append(owner)
                    behaviour.append(sequence.behaviour_logprobs[position])
            bounds.append(len(rows))
        return cls(
            tokens=tokens,
            rows_N=torch.tensor(rows, dtype=torch.int64, device=device),
            targets_N=torch.tensor(targets, dtype=torch.int64, device=device),
            sequence_N=torch.tensor(owners, dtype=torch.int64, device=device),
            bounds=torch.tensor(bounds, dtype=torch.int64, device=device),
            behaviour_N=torch.tensor(behaviour, dtype=torch.float32, device=device),
            advantages_S=torch.tensor([s.advantage for s in chosen], dtype=torch.float32, device=device),
            weights_S=torch.tensor([s.weight for s in chosen], dtype=torch.float32, device=device),
            sources=tuple(sources),
            temperature=temperature,
        )


class _Place(NamedTuple):
    """Which pieces a sequence is made of: tokens before `split` in `first`, the others in `second`."""

    first: int
    split: int
    second: int

    def position(self, index: int, starts: Sequence[int]) -> int:
        """Of the sequence's token `index`, in the pack."""
        return starts[self.first] + index if index < self.split else starts[self.second] + index - self.split


def _pieces(sequences: Sequence[TrainingSequence], *, share_prompts: bool) -> tuple[list[Piece], list[_Place]]:
    pieces: list[Piece] = []
    prompts: dict[tuple[int, ...], int] = {}
    times = Counter(sequence.token_ids[: sequence.num_prompt_tokens] for sequence in sequences)
    places = []
    for sequence in sequences:
        split = sequence.num_prompt_tokens
        prompt = sequence.token_ids[:split]
        if share_prompts and times[prompt] > 1 and 0 < split < len(sequence.token_ids):
            if prompt not in prompts:
                prompts[prompt] = len(pieces)
                pieces.append(Piece(prompt))
            places.append(_Place(prompts[prompt], split, len(pieces)))
            pieces.append(Piece(sequence.token_ids[split:], continues=prompts[prompt]))
        else:
            places.append(_Place(len(pieces), len(sequence.token_ids), len(pieces)))
            pieces.append(Piece(sequence.token_ids))
    return pieces, places


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
    bins.sort(key=lambda members: -sum(family.cost for family in members))
    ranks: list[list[list[Family]]] = [[] for _ in range(data_size)]
    for index, members in enumerate(bins):
        turn, place = divmod(index, data_size)
        # Back and forth, so that no rank always gets the larger one.
        ranks[place if turn % 2 == 0 else data_size - 1 - place].append(sorted(members, key=lambda f: f.members))
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
