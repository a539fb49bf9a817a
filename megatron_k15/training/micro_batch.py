"""Training sequences laid end to end in one pack, and what a loss over it needs.

Legend: T tokens of a pack, S its sequences, N its tokens in the loss.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

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
    last_S: Tensor
    """Position in the pack of each sequence's last token."""
    bounds: Tensor
    """[S + 1]: sequence j's tokens are bounds[j] to bounds[j + 1] of the N."""
    behaviour_N: Tensor
    """fp32: logprobs under the policy that sampled."""
    advantages_S: Tensor
    labels_S: Tensor
    """fp32, as all of these."""
    references_S: Tensor
    weights_S: Tensor
    sources: tuple[int, ...]
    """[S] each sequence's place in the list that was packed."""
    temperature: float = 1.0
    reference_N: Tensor | None = None
    """log π of the targets under the reference policy; None where the policy still is its own reference."""

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
            last_S=torch.tensor(
                [
                    place.position(len(sequence.token_ids) - 1, tokens.starts)
                    for sequence, place in zip(chosen, places, strict=True)
                ],
                dtype=torch.int64,
                device=device,
            ),
            bounds=torch.tensor(bounds, dtype=torch.int64, device=device),
            behaviour_N=torch.tensor(behaviour, dtype=torch.float32, device=device),
            advantages_S=torch.tensor([s.advantage for s in chosen], dtype=torch.float32, device=device),
            labels_S=torch.tensor([s.label for s in chosen], dtype=torch.float32, device=device),
            references_S=torch.tensor([s.reference for s in chosen], dtype=torch.float32, device=device),
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
