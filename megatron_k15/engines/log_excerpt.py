"""What vLLM's log says, in few words: the line it is at, and the reason why it ended."""

import re
from pathlib import Path

NUM_QUOTED_LINES = 25
MAX_REASON_CHARACTERS = 600
TAIL_BYTES = 8 * 2**20
"""A dying engine core is reported once per request in flight: the reason may stand megabytes above the end."""
PREFIX = re.compile(r"^(\(\w+ pid=\d+\) ?)?((DEBUG|INFO|WARNING|ERROR) \d\d-\d\d \d\d:\d\d:\d\d \[\S+\] ?)?")
"""`(EngineCore pid=5078) ERROR 11-24 03:17:29 [core.py:1512] `"""
EXCEPTION = re.compile(r"^([A-Za-z_][\w.]*\.)?([A-Z]\w*(Error|Exception|Refused|Interrupt))(: |$)")
FOLLOW_UP = ("Engine core initialization failed", "WorkerProc initialization failed", "Worker failed with error")
"""Said by the processes above the one that failed; the reason stands further up."""


def log_lines(path: Path, start: int = 0) -> list[str]:
    """The log from byte `start` on (its end, where that is long), without vLLM's line prefixes and empty lines."""
    if not path.exists():
        return []
    with path.open("rb") as log:
        log.seek(max(start, path.stat().st_size - TAIL_BYTES))
        lines = log.read().decode(errors="replace").splitlines()
    return [text for line in lines if (text := PREFIX.sub("", line).rstrip())]


def last_line(lines: list[str], num_characters: int = 90) -> str:
    text = lines[-1].strip() if lines else ""
    return text if len(text) <= num_characters else text[: num_characters - 1] + "…"


def failure_reason(lines: list[str]) -> str:
    """The first exception that vLLM reports, or its last lines where it reports none.

    The first: processes above the failing one report failures of their own afterwards.
    """
    for index, line in enumerate(lines):
        if EXCEPTION.match(line) and not any(text in line for text in FOLLOW_UP):
            reason = [line]
            for more in lines[index + 1 : index + 4]:  # pydantic puts its reason into indented lines
                if not more.startswith("  ") or more.lstrip().startswith(("File ", "For further")):
                    break
                reason.append(more.strip())
            return " ".join(reason)[:MAX_REASON_CHARACTERS]
    return "\n".join(lines[-NUM_QUOTED_LINES:])
