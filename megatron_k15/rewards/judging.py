"""What runs inside a worker process: comparing answers and matching patterns. One JSON line in, one out.

    python -m megatron_k15.rewards.judging FD

FD is one end of a socket pair. The process ends when the other end closes, and when the process that started it dies.
Model text is only ever data here: `inert.py` keeps it from the verifiers that would evaluate it.
"""

import ctypes
import json
import logging
import os
import re
import resource
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from megatron_k15.rewards.inert import is_inert

MEMORY_BYTES = 4 << 30
"""Address space of a worker: 9**9**9**9 ends here, not in the machine's memory."""
PR_SET_PDEATHSIG = 1

Job = Mapping[str, Any]


def main() -> None:
    _die_with_parent(int(sys.argv[2]))
    _limit()
    with socket.socket(fileno=int(sys.argv[1])) as connection, connection.makefile("rwb") as stream:
        for line in stream:
            stream.write(json.dumps(_answer(json.loads(line))).encode() + b"\n")
            stream.flush()


def _die_with_parent(parent: int) -> None:
    # The closed socket ends an idle worker; only a signal ends one in the middle of a comparison that never returns.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def _limit() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def _answer(job: Job) -> bool | str:
    if job["kind"] == "prepare":
        _JUDGES[job["for"]][0]()
        return "ready"
    try:
        return bool(_JUDGES[job["kind"]][1](job))
    except Exception:
        # Hostile text may make foreign parsers and verifiers raise anything. No verdict is not a right answer.
        return False


def _import_math_verify() -> None:
    import math_verify  # noqa: F401


def _import_reasoning_gym() -> None:
    import reasoning_gym  # noqa: F401


def _nothing() -> None:
    pass


def _math(job: Job) -> bool:
    from math_verify import verify

    return verify(_parsed_reference(job["reference"]), _parsed(job["given"]), timeout_seconds=None)


@lru_cache(maxsize=256)
def _parsed_reference(answer: str) -> list[Any]:
    """Once for all the answers to its problem."""
    return _parsed(answer)


def _parsed(answer: str) -> list[Any]:
    from math_verify import parse

    # Timeouts off: the pool's own limit kills this process, which also ends what ignores an alarm.
    return parse(_formula(answer), parsing_timeout=None)


def _formula(answer: str) -> str:
    # One formula on one line: dollars inside would make several of it, of which any could be the right one.
    return "$" + " ".join(answer.replace("$", " ").split()) + "$"


def _reasoning_gym(job: Job) -> bool:
    if not is_inert(job["task"], job["given"]):
        return False
    verifier = _verifier(job["task"], json.dumps(job["metadata"].get("settings", {})))
    entry = {"question": job["question"], "answer": job["reference"], "metadata": job["metadata"].get("entry", {})}
    return verifier(job["given"], entry) >= 1.0


@lru_cache(maxsize=64)
def _verifier(task: str, settings: str) -> Callable[[str, dict[str, Any]], float]:
    import reasoning_gym

    return reasoning_gym.create_dataset(task, seed=0, size=1, **json.loads(settings)).score_answer


def _pattern(job: Job) -> bool:
    return re.search(job["pattern"], job["text"], re.DOTALL) is not None


_JUDGES: dict[str, tuple[Callable[[], None], Callable[[Job], bool]]] = {
    "math": (_import_math_verify, _math),
    "reasoning_gym": (_import_reasoning_gym, _reasoning_gym),
    "pattern": (_nothing, _pattern),
}
"""Kind of job → what to import first (seconds, outside an answer's time limit), and the judge."""


if __name__ == "__main__":
    main()
