"""Files of rows → a token file, made once: as long as files, tokenizer and rules are the same it is used again."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_k15.config import DataConfig
from megatron_k15.data.encoded import Encoded
from megatron_k15.data.token_file import FACTS, Row, TokenFile, write_token_file
from megatron_k15.errors import ConfigError, DataError
from megatron_k15.rows.files import BadRowError, read_rows, required
from megatron_k15.rows.problems import Problems

log = logging.getLogger(__name__)

Encode = Callable[[dict[str, Any]], Sequence[Encoded]]
"""A row → its sequences, equally many for every row: one chat, or the two answers of a preference."""

_TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
_READ_BYTES = 1 << 20


def prepare(
    directory: Path,
    config: DataConfig,
    encode: Encode,
    *,
    what: str,
    model_dir: Path,
    on_progress: Callable[[str], None] = lambda text: None,
) -> TokenFile:
    """The token file of `config.files` in `directory`, written unless it is there already.

    Args:
        what: the rows are, for errors: `chat`.
        model_dir: whose tokenizer `encode` uses.

    Raises:
        DataError: bad rows (all at once, ten shown), an unreadable file, no good row at all.
        ConfigError: no files.
    """
    if not config.files:
        raise ConfigError("data.files must name at least one file; it is empty")
    wanted = _fingerprint(config, what, model_dir)
    if _fingerprint_of(directory) == wanted:
        return TokenFile.open(directory)
    problems = Problems(mode=config.bad_lines, section="data")
    facts: dict[str, Any] = {"fingerprint": wanted, "files": list(config.files)}
    write_token_file(directory, _encoded(config, encode, problems, facts, what, on_progress), facts)
    return TokenFile.open(directory)


def _encoded(
    config: DataConfig,
    encode: Encode,
    problems: Problems,
    facts: dict[str, Any],
    what: str,
    on_progress: Callable[[str], None],
) -> Iterator[tuple[Row, Encoded]]:
    num_rows = 0
    for number, path in enumerate(config.files):
        for line, row in read_rows(Path(path), what=what):
            num_rows += 1
            try:
                for sequence in encode(required(row)):
                    yield (number, line), sequence
            except BadRowError as error:
                problems.add(f"{path}:{line}", str(error))
            if num_rows % 1000 == 0:
                on_progress(f"{num_rows:,} rows")
    problems.settle()
    if num_rows == len(problems.found):
        raise DataError(f"data.files must hold at least one good {what}; {', '.join(config.files)} hold none")
    facts |= {"num_rows": num_rows, "num_skipped": len(problems.found)}


def _fingerprint(config: DataConfig, what: str, model_dir: Path) -> str:
    """Of everything that decides what is written."""
    digest = hashlib.sha256(f"1 {what} {config.bad_lines}".encode())
    companions = sorted(path for pattern in _TOKENIZER_FILES for path in model_dir.glob(pattern))
    for path in [*map(Path, config.files), *companions]:
        try:
            with path.open("rb") as file:
                digest.update(f"{path.name} {path.stat().st_size}".encode())
                while piece := file.read(_READ_BYTES):
                    digest.update(piece)
        except OSError as error:
            raise DataError(f"{what} file {path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def _fingerprint_of(directory: Path) -> str | None:
    try:
        return json.loads((directory / FACTS).read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError):
        return None
