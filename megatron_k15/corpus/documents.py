"""Documents as their files hold them, one at a time."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_k15.rows.files import BadRowError, encodable, read_rows, required
from megatron_k15.rows.problems import Problems


@dataclass(frozen=True, kw_only=True)
class Document:
    text: str
    where: str
    """File and line."""

    @property
    def key(self) -> str:
        """Of the text: what is known of it by this name holds wherever it stands."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:24]


def read_documents(files: Sequence[Path], problems: Problems) -> Iterator[Document]:
    """Rows with `text`, in order; bad ones are noted and left out.

    Raises:
        DataError: a file is missing or unreadable.
    """
    for path in files:
        for line, row in read_rows(path, what="document"):
            where = f"{path}:{line}"
            try:
                yield Document(text=_text(row), where=where)
            except BadRowError as error:
                problems.add(where, str(error))


def _text(row: object) -> str:
    text = required(row).get("text")
    if not isinstance(text, str) or not text.strip():
        raise BadRowError(f"`text` must be a string that is not empty; got {text!r:.60}")
    return encodable(text, "text")
