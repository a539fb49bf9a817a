"""A step's packs → this rank's micro-batches: the packs dealt over the data-parallel ranks, only its own laid out."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from megatron_k15.models.architecture import Architecture
from megatron_k15.parallel.context import ParallelContext
from megatron_k15.training.micro_batch import MicroBatch
from megatron_k15.training.packing import Family, deal, pack_sizes
from megatron_k15.types import TrainingSequence


def supervised_batches(
    packs: Sequence[Sequence[int]],
    length: Callable[[int], int],
    sequence: Callable[[int], TrainingSequence],
    *,
    context: ParallelContext,
    architecture: Architecture,
) -> list[MicroBatch]:
    """
    Args:
        packs: of the whole step, sequences by number; the same on every rank.
        length: of a sequence, in tokens.
        sequence: read only for what this rank trains on.

    Returns:
        `sources` of each are the sequences' numbers.
    """
    interleaved = context.num_chunks > 1
    multiple = context.data_size * (context.pipeline_size if interleaved else 1)
    bins = [[_family(pack, length, architecture.hidden_size)] for pack in packs]
    # Ranks without a pack of their own get empty ones, which change nothing.
    bins += [[] for _ in range(-len(bins) % multiple)]
    mine = deal(bins, context.data_size)[context.data_rank]
    sizes = pack_sizes(mine, multiple=context.tensor_size if context.config.sequence_parallel else 1, equal=interleaved)
    batches = []
    for families, size in zip(mine, sizes, strict=True):
        numbers = [number for family in families for number in family.members]
        sequences = [sequence(number) for number in numbers]
        packed = MicroBatch.pack(sequences, range(len(sequences)), num_tokens=size, device=context.platform.device)
        batches.append(replace(packed, sources=tuple(numbers)))
    return batches


def _family(pack: Sequence[int], length: Callable[[int], int], hidden_size: int) -> Family:
    lengths = [length(number) for number in pack]
    tokens = sum(lengths)
    cost = 12.0 * hidden_size * tokens + sum(one * one for one in lengths)
    return Family(members=tuple(pack), num_tokens=tokens, cost=cost)
