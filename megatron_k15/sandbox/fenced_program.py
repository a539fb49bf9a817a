"""The program inside a model's text: its last closed ``` block."""

import re

TAIL = 262_144
"""Characters of the end of a text in which a program is looked for."""
_FENCE = re.compile(r"^ {0,3}```[^\n`]*$", re.MULTILINE)


def extract_program(text: str) -> str | None:
    """The content of the last closed block; None where there is none."""
    tail = text[-TAIL:]
    fences = list(_FENCE.finditer(tail))
    # In a cut tail the first fence may close a block whose start is gone: pairs count from the end.
    if len(text) > TAIL and len(fences) % 2:
        fences = fences[1:]
    pairs = list(zip(fences[::2], fences[1::2], strict=False))
    if not pairs:
        return None
    opening, closing = pairs[-1]
    return tail[opening.end() + 1 : closing.start()] or None
