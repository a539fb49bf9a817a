"""Pretraining data: every token once per pass, cut at documents or not, mixed by weight; bad indices are refused."""

import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_k15.config import MixConfig, ParallelConfig
from megatron_k15.data.blend import Blend
from megatron_k15.data.indexed import check_indexed
from megatron_k15.errors import DataError
from megatron_k15.parallel.context import initialize
from tests.data.indexed_data import write_indexed

END = 9
LENGTH = 16


def _documents(first: int, count: int) -> list[list[int]]:
    """Of 5 to 11 different tokens, each closed by END; no token is in two of them."""
    documents, token = [], first
    for index in range(count):
        size = 5 + index % 7
        documents.append([*range(token, token + size), END])
        token += size
    return documents


def _blend(tmp_path: Path, *mix: MixConfig, num_sequences: int, seed: int = 0, vocab_size: int = 5000) -> Blend:
    with initialize(ParallelConfig(), seed=0):
        return Blend(
            mix,
            num_sequences=num_sequences,
            sequence_tokens=LENGTH,
            end_of_document=END,
            vocab_size=vocab_size,
            seed=seed,
            cache_dir=tmp_path / "cache",
        )


def test_a_pass_holds_every_token_once_but_for_its_tail(tmp_path: Path) -> None:
    documents = _documents(100, 64)
    path = write_indexed(tmp_path / "a", documents)
    total = sum(map(len, documents))
    count = total // LENGTH
    blend = _blend(tmp_path, MixConfig(path=path), num_sequences=count)
    seen = Counter(token for index in range(count) for piece in blend.pieces(index) for token in piece)
    once = {token for document in documents for token in document} - {END}
    assert set(seen) <= {*once, END}
    assert all(seen[token] <= 1 for token in once)
    assert sum(seen.values()) == count * LENGTH > total - LENGTH


def test_pieces_end_with_their_documents_where_attention_is_partial(tmp_path: Path) -> None:
    documents = _documents(100, 64)
    path = write_indexed(tmp_path / "a", documents)
    partial = _blend(tmp_path, MixConfig(path=path), num_sequences=8)
    whole = _blend(tmp_path, MixConfig(path=path, attention="full"), num_sequences=8)
    for index in range(8):
        pieces = partial.pieces(index)
        assert whole.pieces(index) == [tuple(token for piece in pieces for token in piece)]
        assert all(piece[-1] == END and END not in piece[:-1] for piece in pieces[:-1])
        assert END not in pieces[-1][:-1]
        assert sum(map(len, pieces)) == LENGTH


def test_a_mix_follows_its_weights_and_its_seed(tmp_path: Path) -> None:
    one = write_indexed(tmp_path / "one", _documents(100, 40))
    other = write_indexed(tmp_path / "other", _documents(3000, 40))
    mix = (MixConfig(path=one, weight=3.0), MixConfig(path=other, weight=1.0, attention="full"))
    blend = _blend(tmp_path, *mix, num_sequences=80)
    drawn = [blend.pieces(index) for index in range(80)]
    from_other = [pieces for pieces in drawn if max(map(max, pieces)) >= 3000]
    assert len(from_other) == 20
    assert all(len(pieces) == 1 for pieces in from_other)
    again = _blend(tmp_path, *mix, num_sequences=80)
    assert [again.pieces(index) for index in range(80)] == drawn
    reseeded = _blend(tmp_path, *mix, num_sequences=80, seed=1)
    assert [reseeded.pieces(index) for index in range(80)] != drawn


def test_a_token_outside_the_vocabulary_is_named_with_its_data(tmp_path: Path) -> None:
    path = write_indexed(tmp_path / "a", _documents(100, 20))
    blend = _blend(tmp_path, MixConfig(path=path), num_sequences=4, vocab_size=100)
    with pytest.raises(DataError, match=r"/a: token ids must be below the model's vocabulary of 100"):
        blend.pieces(0)


def _change(path: Path, change: Any) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "change", "rule"),
    [
        ("a.bin", lambda raw: raw[:-2], r"a.idx must fit a.bin: it describes \d+ bytes of tokens, the data has \d+"),
        ("a.bin", lambda raw: raw + b"xx", "must fit a.bin"),
        ("a.idx", lambda raw: raw[:-1], "is damaged, or no index of megatron-core's: it has .* bytes"),
        ("a.idx", lambda raw: b"GARBAGE" + raw[7:], "it does not begin as one does"),
        ("a.idx", lambda raw: raw[:17] + b"\x07" + raw[18:], "token type 7 is no integer"),
        ("a.idx", lambda raw: raw[:5], "a header takes 34"),
        # The second sequence is said to begin elsewhere.
        ("a.idx", lambda raw: raw[:50] + struct.pack("<q", 3) + raw[58:], "not end to end"),
    ],
)
def test_an_index_that_does_not_fit_its_data_is_refused(tmp_path: Path, name: str, change: Any, rule: str) -> None:
    path = write_indexed(tmp_path / "a", [[1, 2, 3], [4, 5, END]])
    assert check_indexed(path).num_tokens == 6
    assert check_indexed(path).num_documents == 2
    _change(tmp_path / name, change)
    with pytest.raises(DataError, match=rule):
        check_indexed(path)


def test_missing_and_wider_data_sets(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.idx cannot be read"):
        check_indexed(str(tmp_path / "nowhere"))
    assert check_indexed(write_indexed(tmp_path / "wide", [[1, 70000]], np.int32)).num_tokens == 2
