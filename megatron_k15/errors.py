"""Errors a user can act on. Each message states the rule, what was found, and what to do.

Invariants of our own are `assert`ed; these classes are for bad input and failing parts.
"""


class K15Error(Exception):
    """Root of every error that the programs print as one line instead of a traceback."""


class ConfigError(K15Error, ValueError):
    """A configuration value, or a combination of them, is not allowed."""


class DataError(K15Error, ValueError):
    """A prompt or training file does not hold what it should."""


class ModelError(K15Error, ValueError):
    """A model directory is incomplete, inconsistent, or of an unsupported architecture."""


class CheckpointError(K15Error):
    """A checkpoint is missing a piece, damaged, or could not be written."""


class EngineError(K15Error):
    """A vLLM process did not start, died too often, or answered something it must not."""


class TransferError(K15Error):
    """Weights did not arrive whole and unchanged at vLLM."""


class RewardError(K15Error):
    """A reward worker could not be used."""


class ReplayError(K15Error):
    """The replay buffer's log is damaged, lacks a segment, or could not be written."""


class OffloadError(K15Error):
    """The trainer's memory could not be given away: there is no room for its bytes elsewhere."""


class WaitTimeoutError(K15Error, TimeoutError):
    """A wait reached its limit; the message names what it waited for."""
