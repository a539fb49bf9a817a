"""What a run is doing, live: a spinner with elapsed seconds in a terminal, plain lines in a log."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from megatron_k15.metrics.printable import printable

LOG_INTERVAL_SECONDS = 10.0
"""In a log, an update is printed at most this often."""

Update = Callable[[str], None]


class Progress:
    """`say` and the `update`s may be called from any thread.

    Args:
        stream: where to write; the process's standard output by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()
        self._console = Console(file=self._stream, markup=False, highlight=False, emoji=False)
        self._live: RichProgress | None = None
        self._num_phases = 0

    def say(self, text: str) -> None:
        """One line that stays."""
        with self._lock:
            if self._console.is_terminal:
                self._console.print(printable(text), soft_wrap=True)
            else:
                self._plain(text)

    @contextmanager
    def phase(self, title: str) -> Iterator[Update]:
        """Something that takes time. Yields `update(text)`, which shows how far it is."""
        phase = self._terminal_phase if self._console.is_terminal else self._log_phase
        with phase(printable(title)) as update:
            yield update

    @contextmanager
    def _terminal_phase(self, title: str) -> Iterator[Update]:
        live, task = self._enter(title)
        try:
            yield lambda text: live.update(task, status=printable(text))
        finally:
            self._leave(live, task)

    def _enter(self, title: str) -> tuple[RichProgress, TaskID]:
        # One live display for all phases, which may nest and overlap: rich allows only one.
        with self._lock:
            if self._live is None:
                columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
                self._live = RichProgress(
                    *columns, TextColumn("{task.fields[status]}"), console=self._console, transient=True
                )
                self._live.start()
            self._num_phases += 1
            return self._live, self._live.add_task(title, total=None, status="")

    def _leave(self, live: RichProgress, task: TaskID) -> None:
        with self._lock:
            live.remove_task(task)
            self._num_phases -= 1
            if not self._num_phases:
                live.stop()
                self._live = None

    @contextmanager
    def _log_phase(self, title: str) -> Iterator[Update]:
        started = last_printed = time.monotonic()

        def update(text: str) -> None:
            nonlocal last_printed
            with self._lock:
                now = time.monotonic()
                if now - last_printed >= LOG_INTERVAL_SECONDS:
                    last_printed = now
                    self._plain(f"{title}: {text} ({now - started:.0f} s)")

        self.say(f"{title} …")
        outcome = "failed after"
        try:
            yield update
            outcome = "done in"
        finally:
            self.say(f"{title}: {outcome} {time.monotonic() - started:.1f} s")

    def _plain(self, text: str) -> None:
        self._stream.write(printable(text) + "\n")
        self._stream.flush()
