"""Documents' tokens → an indexed data set, as megatron-core's builder writes it. There whole or not at all."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch


def write_indexed(prefix: Path, documents: Iterable[Sequence[int]], *, vocab_size: int) -> tuple[int, int]:
    """Write PREFIX.bin and PREFIX.idx; returns how many documents and tokens.

    Args:
        documents: token ids, each with its end-of-sequence token.
        vocab_size: decides the width of a token.
    """
    # megatron-core takes seconds to import: not before bad input is found.
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    prefix.parent.mkdir(parents=True, exist_ok=True)
    new = prefix.with_name(f"{prefix.name}.new")
    num_documents = num_tokens = 0
    builder = IndexedDatasetBuilder(f"{new}.bin", dtype=DType.optimal_dtype(vocab_size))
    for tokens in documents:
        builder.add_document(torch.tensor(tokens), [len(tokens)])
        num_documents += 1
        num_tokens += len(tokens)
    builder.finalize(f"{new}.idx")
    for suffix in (".bin", ".idx"):
        with Path(f"{new}{suffix}").open("rb") as file:
            os.fsync(file.fileno())
    # The index goes first and comes last: without it there is no data set, and an earlier one's may fit the new data.
    Path(f"{prefix}.idx").unlink(missing_ok=True)
    for suffix in (".bin", ".idx"):
        Path(f"{new}{suffix}").rename(f"{prefix}{suffix}")
    return num_documents, num_tokens
