"""Sequences laid end to end, as the model reads them: no padding between, attention within each sequence only.

Several responses to one prompt may share the prompt's tokens: a piece that continues another one attends to it and to
itself, and its positions go on from it. The prompt is then computed once instead of once per response.

    pieces    [prompt A] [response A1] [response A2] [sequence B]
    rows      A + A1,  A + A2,  B              what attention sees, each causal

Legend: T tokens of the pack, B rows of a bucket, L its longest row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple, Self

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

MAX_PADDING = 1.25
"""Rows share one attention call while padding them to the longest costs at most this factor."""


class Piece(NamedTuple):
    token_ids: Sequence[int]
    continues: int | None = None
    """The number of the piece it goes on from; that one stands before it and continues none itself."""


class AttentionRow(NamedTuple):
    """One causal sequence: [prefix_start, + prefix_length) of the pack, then [start, + length)."""

    prefix_start: int
    prefix_length: int
    start: int
    length: int
    owns_prefix: bool
    """The prefix' own outputs are taken from this row, the first of those that share it."""

    @property
    def total(self) -> int:
        return self.prefix_length + self.length


@dataclass(frozen=True, kw_only=True)
class AttentionBucket:
    """Rows of similar lengths, padded to one rectangle for one attention call."""

    gather_BL: Tensor
    """[B, L] position in the pack of each cell; padding repeats the row's last token."""
    valid: Tensor
    """[n] the cells, counted row by row, whose outputs count."""
    scatter: Tensor
    """[n] the position in the pack of each valid cell."""


@dataclass(kw_only=True)
class PackedSequences(PackedSeqParams):
    """megatron-core's parameters of a pack, with what our core attention works out once for all layers."""

    rows: tuple[AttentionRow, ...] = ()

    @cached_property
    def buckets(self) -> tuple[AttentionBucket, ...]:
        return tuple(_bucket(members) for members in _alike(self.rows))

    @cached_property
    def order(self) -> Tensor:
        """[T] where each token of the pack stands in the buckets' valid cells, one bucket after the other."""
        return torch.cat([bucket.scatter for bucket in self.buckets]).argsort()

    def for_transformer_engine(self) -> PackedSeqParams:
        """The same pack under the name that Transformer Engine knows, total tokens × heads × depth."""
        assert not any(row.prefix_length for row in self.rows), "Transformer Engine knows no shared prompts"
        return PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=self.cu_seqlens_q,
            cu_seqlens_kv=self.cu_seqlens_kv,
            max_seqlen_q=self.max_seqlen_q,
            max_seqlen_kv=self.max_seqlen_kv,
        )


@dataclass(frozen=True, kw_only=True)
class PackedTokens:
    """One micro-batch for `PolicyModel`."""

    token_ids_T: Tensor
    """int64 [T]."""
    positions_T: Tensor
    """int64 [T], from 0 in each sequence."""
    starts: tuple[int, ...]
    """Where each piece begins in the pack."""
    sequences: PackedSequences = field(repr=False)

    @classmethod
    def pack(
        cls, pieces: Sequence[Piece], *, num_tokens: int | None = None, device: torch.device | str = "cpu"
    ) -> Self:
        """Lay `pieces` end to end; tokens of id 0, a sequence of their own, fill up to `num_tokens`."""
        filled = list(pieces)
        total = sum(len(piece.token_ids) for piece in pieces)
        if num_tokens is not None and num_tokens != total:
            assert num_tokens > total, f"{total} tokens do not fit into {num_tokens}"
            filled.append(Piece([0] * (num_tokens - total)))
        lengths = [len(piece.token_ids) for piece in filled]
        offsets = [0 if piece.continues is None else lengths[piece.continues] for piece in filled]
        bounds = [0, *accumulate(lengths)]
        cu_seqlens = torch.tensor(bounds, dtype=torch.int32, device=device)
        return cls(
            token_ids_T=torch.tensor([token for piece in filled for token in piece.token_ids], device=device),
            positions_T=torch.cat(
                [torch.arange(offset, offset + length) for offset, length in zip(offsets, lengths, strict=True)]
            ).to(device),
            starts=tuple(bounds[:-1]),
            sequences=PackedSequences(
                # Any name but "thd": for that one megatron-core rotates sequence by sequence and drops the batch axis.
                qkv_format="packed",
                cu_seqlens_q=cu_seqlens,
                cu_seqlens_kv=cu_seqlens,
                max_seqlen_q=max(lengths),
                max_seqlen_kv=max(lengths),
                rows=_rows(filled, bounds, lengths),
            ),
        )

    @property
    def num_tokens(self) -> int:
        return self.token_ids_T.numel()


def _rows(pieces: Sequence[Piece], starts: Sequence[int], lengths: Sequence[int]) -> tuple[AttentionRow, ...]:
    """One row per piece that nothing continues."""
    continued = {piece.continues for piece in pieces}
    owned: set[int] = set()
    rows = []
    for index, piece in enumerate(pieces):
        prefix = piece.continues
        if prefix is not None:
            assert pieces[prefix].continues is None, "a piece continues one that continues none"
            rows.append(
                AttentionRow(starts[prefix], lengths[prefix], starts[index], lengths[index], prefix not in owned)
            )
            owned.add(prefix)
        elif index not in continued:
            rows.append(AttentionRow(starts[index], 0, starts[index], lengths[index], owns_prefix=False))
    return tuple(rows)


def _alike(rows: Sequence[AttentionRow]) -> list[list[AttentionRow]]:
    """Grouped, longest first, so that padding a group stays below MAX_PADDING."""
    groups: list[list[AttentionRow]] = []
    tokens = 0
    for row in sorted(rows, key=lambda row: -row.total):
        if groups and (len(groups[-1]) + 1) * groups[-1][0].total <= MAX_PADDING * (tokens + row.total):
            groups[-1].append(row)
            tokens += row.total
        else:
            groups.append([row])
            tokens = row.total
    return groups


def _bucket(rows: Sequence[AttentionRow]) -> AttentionBucket:
    """Of rows, the longest first."""
    numbers = torch.tensor([row[:4] for row in rows])
    prefix_start, prefix_length, start, length = (column.unsqueeze(1) for column in numbers.unbind(1))
    owns = torch.tensor([row.owns_prefix for row in rows]).unsqueeze(1)
    columns = torch.arange(rows[0].total).unsqueeze(0)
    own_part = start + (columns - prefix_length).minimum(length - 1)
    gather = torch.where(columns < prefix_length, prefix_start + columns, own_part)
    inside = (columns < prefix_length + length) & ((columns >= prefix_length) | owns)
    return AttentionBucket(
        gather_BL=gather,
        valid=inside.flatten().nonzero().squeeze(1),
        scatter=gather[inside],
    )
