"""A step's packs → this rank's micro-batches: the packs dealt over the data-parallel ranks, only its own laid out."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from megatron_k15.models.architecture import Architecture
from megatron_k15.parallel.context import ParallelContext
from megatron_k15.training.micro_batch import MicroBatch
from megatron_k15.training.packing import Family, deal, pack_sizes
from megatron_k15.types import TrainingSequence

Pack = Sequence[int]
Numbered = tuple[int, TrainingSequence]


def supervised_batches(
    packs: Sequence[Pack],
    *,
    lengths: Callable[[Pack], Sequence[int]],
    sequences: Callable[[Pack], Sequence[Numbered]],
    context: ParallelContext,
    architecture: Architecture,
) -> list[MicroBatch]:
    """
    Args:
        packs: of the whole step; the same on every rank.
        lengths: of a pack's sequences, in tokens.
        sequences: of a pack, with the numbers they go by; asked for this rank's packs alone.

    Returns:
        As many on every rank; `sources` of each are the sequences' numbers.
    """
    interleaved = context.num_chunks > 1
    multiple = context.data_size * (context.pipeline_size if interleaved else 1)
    bins = [[_family(pack, lengths(pack), architecture.hidden_size)] for pack in packs]
    # Ranks without a pack of their own get empty ones, which change nothing.
    bins += [[] for _ in range(-len(bins) % multiple)]
    mine = deal(bins, context.data_size)[context.data_rank]
    sizes = pack_sizes(mine, multiple=context.tensor_size if context.config.sequence_parallel else 1, equal=interleaved)
    return [
        _micro_batch([one for family in families for one in sequences(family.members)], size, context)
        for families, size in zip(mine, sizes, strict=True)
    ]


def _micro_batch(numbered: Sequence[Numbered], num_tokens: int, context: ParallelContext) -> MicroBatch:
    packed = MicroBatch.pack(
        [sequence for _, sequence in numbered],
        range(len(numbered)),
        num_tokens=num_tokens,
        device=context.platform.device,
    )
    return replace(packed, sources=tuple(number for number, _ in numbered))


def _family(pack: Pack, lengths: Sequence[int], hidden_size: int) -> Family:
    tokens = sum(lengths)
    cost = 12.0 * hidden_size * tokens + sum(length * length for length in lengths)
    return Family(members=tuple(pack), num_tokens=tokens, cost=cost)
