"""When to give up: the limits that keep a hostile answer cheap, and the exception that says "not decided here"."""

MAX_CHARACTERS = 512
MAX_TOKENS = 256
MAX_DEPTH = 16
"""Brackets inside brackets."""
MAX_TERMS = 64
"""Of a polynomial."""
MAX_POWER = 64
MAX_BITS = 4096
"""Of a coefficient."""
MAX_TERM_PRODUCTS = 4096
"""Over all multiplications that one answer asks for: some milliseconds."""
MAX_RADICAND = 10**8
"""Factored by trial division."""


class UndecidedError(Exception):
    """This answer is not of a form that is known here, or too large to look at; its text says why, for a debugger."""
