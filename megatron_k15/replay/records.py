"""A segment record as bytes, and back: safetensors, whose metadata holds what is not an array.

    token_ids [N] int32 · logprobs [N] fp64 · loss_mask [N] bool · ends [S] int64 · versions [S] int64

N tokens in S segments, of one weight version each. fp64: a resumed run trains on the very numbers that vLLM sent.
"""

import json
from dataclasses import asdict
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from megatron_k15.errors import ReplayError
from megatron_k15.types import Segment, SegmentKey, SegmentRecord, VersionSpan

META = "k15"
DTYPES = {"I32": np.int32, "I64": np.int64, "F64": np.float64, "BOOL": np.bool_}


class Facts(NamedTuple):
    """What the index keeps of a record."""

    key: SegmentKey
    run: str
    """Which run sampled it, as `ReplayBuffer` was told."""
    num_tokens: int
    finish_reason: str


def to_bytes(record: SegmentRecord, *, run: str) -> bytes:
    segments = record.segments
    assert all(len(segment.versions) == 1 for segment in segments), "a segment is cut where its version changes"
    tokens = [token for segment in segments for token in segment.token_ids]
    facts = {
        "key": asdict(record.key),
        "run": run,
        "num_tokens": len(tokens),
        "finish_reason": record.finish_reason,
        "kinds": [segment.kind for segment in segments],
    }
    arrays: dict[str, np.ndarray] = {
        "token_ids": np.array(tokens, dtype=np.int32),
        "logprobs": np.array([value for segment in segments for value in segment.logprobs], dtype=np.float64),
        "loss_mask": np.array([value for segment in segments for value in segment.loss_mask], dtype=np.bool_),
        "ends": np.cumsum([len(segment.token_ids) for segment in segments], dtype=np.int64),
        "versions": np.array([segment.versions[0].version for segment in segments], dtype=np.int64),
    }
    return save(arrays, metadata={META: json.dumps(facts)})


def read_facts(payload: bytes) -> Facts:
    """
    Raises:
        ReplayError: not a record of ours.
    """
    facts = _metadata(payload)
    try:
        key = SegmentKey(**facts["key"])
        return Facts(key, facts["run"], facts["num_tokens"], facts["finish_reason"])
    except (KeyError, TypeError) as error:
        raise ReplayError(f"a replay record must name its key, run and finish reason; {error!r} in {facts}") from error


def from_bytes(payload: bytes) -> SegmentRecord:
    """
    Raises:
        ReplayError: not a record of ours.
    """
    facts = _metadata(payload)
    try:
        arrays = {name: _array(value) for name, value in deserialize(payload)}
        edges = [0, *arrays["ends"].tolist()]
        segments = tuple(
            _segment(facts["kinds"][index], arrays, start, end, int(arrays["versions"][index]))
            for index, (start, end) in enumerate(pairwise(edges))
        )
        return SegmentRecord(key=SegmentKey(**facts["key"]), segments=segments, finish_reason=facts["finish_reason"])
    except (KeyError, TypeError, ValueError, IndexError, SafetensorError) as error:
        raise ReplayError(f"a replay record must hold tokens, logprobs, masks and versions; {error!r}") from error


def _metadata(payload: bytes) -> dict[str, Any]:
    """safetensors: 8 bytes of length, then a JSON header."""
    try:
        end = 8 + int.from_bytes(payload[:8], "little")
        return json.loads(json.loads(payload[8:end])["__metadata__"][META])
    except (ValueError, KeyError, TypeError) as error:
        raise ReplayError(f"a replay record must be safetensors with our metadata; {error!r}") from error


def _array(value: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(value["data"], dtype=DTYPES[value["dtype"]]).reshape(value["shape"])


def _segment(kind: Any, arrays: dict[str, np.ndarray], start: int, end: int, version: int) -> Segment:
    return Segment(
        kind=kind,
        token_ids=tuple(arrays["token_ids"][start:end].tolist()),
        logprobs=tuple(arrays["logprobs"][start:end].tolist()),
        loss_mask=tuple(arrays["loss_mask"][start:end].tolist()),
        versions=(VersionSpan(version=version, start=0, end=end - start),),
    )
