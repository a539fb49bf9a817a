"""Learn a tokenizer from JSONL or Parquet rows with `text`, in the form that transformers and vLLM load.

python tools/train_tokenizer.py FILE … --vocab-size 32000 --output DIR
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_k15.errors import DataError, K15Error
from megatron_k15.models.new_tokenizer import ASSISTANT, USER, train_tokenizer
from megatron_k15.rows.files import BadRowError, encodable, read_rows, required


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Learn a tokenizer from texts.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--vocab-size", type=int, required=True, help="at most; small texts hold fewer pieces")
    parser.add_argument("--special-token", action="append", default=[], metavar="TEXT", help="besides the chat's two")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        if options.output.exists():
            raise DataError(f"--output must be a new directory; {options.output} is there already")
        count = train_tokenizer(
            _texts(options.files),
            options.output,
            vocab_size=options.vocab_size,
            special_tokens=(USER, ASSISTANT, *options.special_token),
        )
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {options.output}: {count} tokens")
    return 0


def _texts(files: list[Path]) -> Iterator[str]:
    for path in files:
        for line, row in read_rows(path, what="text"):
            try:
                yield encodable(_text(row), "text")
            except BadRowError as error:
                raise DataError(f"{path}, line {line}: {error}") from error


def _text(row: Any) -> str:
    text = required(row).get("text")
    if not isinstance(text, str):
        raise BadRowError(f"`text` must be a string; got {text!r:.100}")
    return text


if __name__ == "__main__":
    sys.exit(main())
