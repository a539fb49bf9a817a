"""Foreign text for a terminal: what could command it is shown as an escape instead."""

import unicodedata

_KEPT = {"\n", "\t"}
_COMMANDS = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Control and format characters (right-to-left overrides, zero widths), surrogates, odd line ends."""


def printable(text: str) -> str:
    r"""`text` with every character that could move the cursor, colour, reorder or hide written like `\x1b`."""
    return "".join(
        character
        if character in _KEPT or unicodedata.category(character) not in _COMMANDS
        else character.encode("unicode_escape").decode()
        for character in text
    )
