"""The code reward (§2.3.5): the last fenced block of a response is right if it passes every test case of its problem.

The sandbox may be killed, stopped, or full at any moment. None of that is the response's fault: the same submission is
sent again until there is a verdict, or until `sandbox.patience_seconds` have passed; then the run stops, and no reward
is made up.
"""

import asyncio
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from megatron_k15.config import SandboxConfig
from megatron_k15.errors import RewardError
from megatron_k15.sandbox.client import SandboxBusyError, SandboxClient, SandboxGoneError
from megatron_k15.sandbox.errors import SandboxError
from megatron_k15.sandbox.local_service import LocalService
from megatron_k15.sandbox.problem import read_problem
from megatron_k15.sandbox.values import Report, Submission
from megatron_k15.types import Prompt

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0


class CodeJudge:
    """`await judge(prompt, program)` from any event loop; `close()` from any thread.

    Starts a sandbox of its own when it first needs it, unless `sandbox.address` names one.
    """

    def __init__(self, config: SandboxConfig, log_path: Path | None = None) -> None:
        self._config = config
        self._log_path = log_path
        self._lock = threading.Lock()
        self._local: LocalService | None = None
        self._closed = threading.Event()
        self._executor = ThreadPoolExecutor(config.max_concurrent_requests, thread_name_prefix="code-judge")
        self.num_repeated = 0
        """Submissions sent again because no verdict came."""

    @property
    def num_restarts(self) -> int:
        return self._local.num_restarts if self._local else 0

    def prepare(self, prompts: Iterable[Prompt]) -> None:
        """Where some of `prompts` are code prompts: see that there is a sandbox, and that it knows their languages.

        Raises:
            RewardError: it does not start, does not answer, or lacks a language.
        """
        languages = {read_problem(prompt.metadata).language: prompt.id for prompt in prompts if prompt.task == "code"}
        if not languages:
            return
        try:
            known = self._client().languages()
        except SandboxError as error:
            raise RewardError(f"code prompts need a sandbox (docs/sandbox.md); {error}") from error
        for language, prompt_id in languages.items():
            if language not in known:
                raise RewardError(
                    f"prompt {prompt_id}: the language must be one that the sandbox has ({', '.join(known)}); "
                    f"got {language!r}"
                )

    async def judge(self, prompt: Prompt, program: str) -> bool:
        """Raises:
        RewardError: the prompt's metadata is no problem, or there is no verdict to be had.
        """
        try:
            submission = read_problem(prompt.metadata).submission(program)
        except ValueError as error:
            raise RewardError(f"prompt {prompt.id}: the metadata of a code prompt {error}") from error
        report = await asyncio.get_running_loop().run_in_executor(self._executor, self._report, prompt.id, submission)
        return report.verdict == "accepted"

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            if self._local is not None:
                self._local.close()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _report(self, prompt_id: str, submission: Submission) -> Report:
        """The sandbox's report, however often it has to be asked."""
        deadline = None
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._client().run(submission)
            except (SandboxGoneError, SandboxBusyError) as error:
                # Waiting its turn in a long queue is no failure: patience begins with the first one.
                deadline = deadline or time.monotonic() + self._config.patience_seconds
                if time.monotonic() > deadline or self._closed.wait(pause):
                    raise RewardError(
                        f"prompt {prompt_id}: the sandbox must give a verdict within sandbox.patience_seconds "
                        f"({self._config.patience_seconds:g} s); {error}"
                    ) from error
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                with self._lock:
                    self.num_repeated += 1
            except SandboxError as error:
                raise RewardError(f"prompt {prompt_id}: {error}") from error

    def _client(self) -> SandboxClient:
        config = self._config
        if config.address:
            token = os.environ.get(config.token_variable)
            return SandboxClient(config.address, token=token, timeout_seconds=config.request_timeout_seconds)
        with self._lock:
            if self._closed.is_set():
                raise SandboxError("the judge is closed")
            if self._local is None:
                self._local = LocalService(
                    ("--backend", config.backend, "--slots", str(config.num_slots)),
                    max_restarts=config.max_restarts,
                    hang_timeout_seconds=config.hang_timeout_seconds,
                    log_path=self._log_path,
                )
        return self._local.ready()
