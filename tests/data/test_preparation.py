"""Rows → token file: what is wrong is told at once, what is right is written once."""

import logging
from pathlib import Path
from typing import Any

import pytest

from megatron_k15.config import DataConfig
from megatron_k15.data.encoded import Encoded
from megatron_k15.data.preparation import prepare
from megatron_k15.data.token_file import TokenFile
from megatron_k15.errors import ConfigError, DataError
from megatron_k15.rows.files import BadRowError
from tests.data.chat_model import write_rows

BAD = ["{broken", {"n": -1}, [1], {"n": 3}]


def _encode(row: dict[str, Any]) -> list[Encoded]:
    if row["n"] < 1:
        raise BadRowError("`n` must be at least 1")
    count = row["n"]
    return [Encoded(token_ids=tuple(range(count)), loss_mask=(False,) + (True,) * (count - 1), label=count / 2)]


def _prepare(tmp_path: Path, rows: list[Any], **data: Any) -> TokenFile:
    file = write_rows(tmp_path / "rows.jsonl", rows)
    config = DataConfig(files=(str(file),), **data)
    return prepare(tmp_path / "data", config, _encode, what="number", model_dir=tmp_path)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    tokens = _prepare(tmp_path, [{"n": 2}, {"n": 5}])
    assert tokens.lengths.tolist() == [2, 5]
    assert tokens.loss_tokens.tolist() == [1, 4]
    sequence = tokens.sequence(1, weight=0.5)
    assert sequence.token_ids == (0, 1, 2, 3, 4)
    assert sequence.loss_mask == (False, True, True, True, True)
    assert (sequence.label, sequence.weight) == (2.5, 0.5)
    assert tokens.where(1) == f"{tmp_path}/rows.jsonl:2"


def test_all_bad_rows_are_one_error_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        _prepare(tmp_path, BAD)
    text = str(caught.value)
    assert "data: 3 bad lines; correct them, or set data.bad_lines=skip" in text
    for line, rule in ((1, "must be one JSON object"), (2, "`n` must be at least 1"), (3, "got list")):
        assert f"rows.jsonl:{line}: " in text
        assert rule in text
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_skipped_rows_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tokens = _prepare(tmp_path, BAD, bad_lines="skip")
    assert tokens.lengths.tolist() == [3]
    assert (tokens.facts["num_rows"], tokens.facts["num_skipped"]) == (4, 3)
    assert "data: skipped 3 bad lines" in caplog.text
    assert "rows.jsonl:2: `n` must be at least 1" in caplog.text


def test_files_are_read_again_only_when_something_changed(tmp_path: Path) -> None:
    first = _prepare(tmp_path, [{"n": 2}])
    made = (first.directory / "tokens.bin").stat().st_ino
    assert (_prepare(tmp_path, [{"n": 2}]).directory / "tokens.bin").stat().st_ino == made
    assert _prepare(tmp_path, [{"n": 4}]).lengths.tolist() == [4]
    (tmp_path / "tokenizer.json").write_text("{}")
    now = _prepare(tmp_path, [{"n": 4}])
    assert now.facts["fingerprint"] != first.facts["fingerprint"]


def test_damage_and_missing_sources_are_named(tmp_path: Path) -> None:
    tokens = _prepare(tmp_path, [{"n": 2}])
    with (tokens.directory / "tokens.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"tokens.bin has 9 bytes, must have 8; remove it"):
        TokenFile.open(tokens.directory)
    with pytest.raises(DataError, match=r"nowhere.jsonl cannot be read"):
        prepare(tmp_path / "other", DataConfig(files=("nowhere.jsonl",)), _encode, what="number", model_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"data.files must name at least one file"):
        prepare(tmp_path / "other", DataConfig(), _encode, what="number", model_dir=tmp_path)
    with pytest.raises(DataError, match="at least one good number"):
        _prepare(tmp_path, BAD[:2], bad_lines="skip")
