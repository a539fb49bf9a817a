"""Errors a user can act on. Each message states the rule, what was found, and what to do.

Invariants of our own are `assert`ed; these classes are for bad input and failing parts.
"""

import json
import os
import time
from pathlib import Path


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


class PeerError(K15Error):
    """Another rank failed first; the message is its reason."""


class WaitTimeoutError(K15Error, TimeoutError):
    """A wait reached its limit; the message names what it waited for."""


def leave_for_torchrun(text: str) -> bool:
    """Leave why this rank fails where torchrun looks for it, so that its last lines say it; False where there is no
    torchrun. Without that file they are a traceback of torchrun's own and a link.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not file:
        return False
    # torchrun shows `py_callstack`, and takes the earliest of all ranks' files for the cause (torch 2.13).
    details = {"py_callstack": text, "timestamp": str(int(time.time()))}
    Path(file).write_text(json.dumps({"message": {"message": text, "extraInfo": details}}), encoding="utf-8")
    return True
