"""megatron-core's indexed data sets, checked before they are mapped: an index that does not fit its data would give
tokens from anywhere.

    PREFIX.idx   magic, version, dtype code, S sequences, D documents, lengths int32 [S], byte offsets int64 [S],
                 document ends int64 [D]
    PREFIX.bin   the tokens, end to end
"""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_k15.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 8: 2}
"""Code of an integer dtype → its size; 6 and 7 are floats, which are no tokens."""
_HEADER = struct.Struct("<9sQBQQ")


@dataclass(frozen=True, kw_only=True)
class IndexedFacts:
    num_documents: int
    num_tokens: int
    fingerprint: str
    """Of the index and the data's size."""


def check_indexed(prefix: str) -> IndexedFacts:
    """
    Raises:
        DataError: a file is missing, or the index is damaged, empty or does not fit the data.
    """
    index, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    try:
        raw, num_bytes = index.read_bytes(), data.stat().st_size
    except OSError as error:
        raise DataError(f"indexed data set {prefix}: {error.filename} cannot be read: {error.strerror}") from error
    try:
        item_bytes, lengths, offsets, num_documents = _parse(raw)
    except ValueError as error:
        raise DataError(f"{index} is damaged, or no index of megatron-core's: {error}; build it again") from error
    needed = int(lengths.sum()) * item_bytes
    in_order = np.array_equal(offsets, (np.cumsum(lengths) - lengths) * item_bytes)
    if needed != num_bytes or not in_order:
        told = f"it describes {needed} bytes of tokens" + ("" if in_order else ", not end to end")
        raise DataError(f"{index} must fit {data.name}: {told}, the data has {num_bytes} bytes; build both again")
    if not needed:
        raise DataError(f"indexed data set {prefix} must hold at least one token; it is empty")
    fingerprint = hashlib.sha256(raw + num_bytes.to_bytes(8, "little")).hexdigest()
    return IndexedFacts(num_documents=num_documents, num_tokens=int(lengths.sum()), fingerprint=fingerprint)


def _parse(raw: bytes) -> tuple[int, np.ndarray, np.ndarray, int]:
    """(bytes per token, int64 lengths, offsets, number of documents).

    Raises:
        ValueError: what is wrong.
    """
    if len(raw) < _HEADER.size:
        raise ValueError(f"it has {len(raw)} bytes, a header takes {_HEADER.size}")
    magic, version, code, num_sequences, num_ends = _HEADER.unpack_from(raw)
    if magic != MAGIC or version != 1:
        raise ValueError("it does not begin as one does")
    if code not in _ITEM_BYTES:
        raise ValueError(f"its token type {code} is no integer")
    expected = _HEADER.size + 12 * num_sequences + 8 * num_ends
    if len(raw) != expected:
        raise ValueError(f"it has {len(raw)} bytes, {num_sequences} sequences and {num_ends} ends take {expected}")
    lengths = np.frombuffer(raw, np.int32, num_sequences, _HEADER.size).astype(np.int64)
    offsets = np.frombuffer(raw, np.int64, num_sequences, _HEADER.size + 4 * num_sequences)
    return _ITEM_BYTES[code], lengths, offsets, num_ends - 1
