"""The code blocks of a document, so that tests run what it shows."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def code_blocks(document: str, language: str) -> list[str]:
    """Contents of the fenced blocks of `document` (relative to the repository) marked with `language`."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
