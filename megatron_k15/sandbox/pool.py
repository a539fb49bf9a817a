"""Submissions in, reports out: idle slots, a queue of limited length before them, and what Prometheus wants to know."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from megatron_k15.sandbox.errors import JailError
from megatron_k15.sandbox.judging import judge
from megatron_k15.sandbox.languages import Language
from megatron_k15.sandbox.slot import Slot
from megatron_k15.sandbox.values import Report, Submission

MAX_TRIES = 3
log = logging.getLogger(__name__)


class QueueFullError(Exception):
    """Back-pressure: come again later."""


class Pool:
    """Belongs to one event loop.

    Args:
        max_waiting: submissions that may wait for a slot; more are refused at once.
    """

    def __init__(self, slots: Sequence[Slot], languages: Mapping[str, Language], *, max_waiting: int) -> None:
        self.languages = dict(languages)
        self.num_slots = len(slots)
        self.max_waiting = max_waiting
        self.num_waiting = 0
        self._idle: asyncio.Queue[Slot] = asyncio.Queue()
        for slot in slots:
            self._idle.put_nowait(slot)
        self.metrics = Metrics(self)

    @property
    def num_busy(self) -> int:
        return self.num_slots - self._idle.qsize()

    async def run(self, submission: Submission) -> Report:
        """Raises:
        QueueFullError: too many wait already.
        JailError: no jail could be made, three times in a row.
        CheckerError: the submission's checker is no checker.
        """
        if self._idle.empty() and self.num_waiting >= self.max_waiting:
            self.metrics.refused.inc()
            raise QueueFullError
        arrived = time.monotonic()
        self.num_waiting += 1
        try:
            slot = await self._idle.get()
        finally:
            self.num_waiting -= 1
        self.metrics.queue_seconds.observe(time.monotonic() - arrived)
        try:
            # Shielded: a client that hangs up must not free a slot on which its program still runs.
            return await asyncio.shield(self._judge_and_free(slot, submission))
        finally:
            self.metrics.run_seconds.observe(time.monotonic() - arrived)

    async def _judge_and_free(self, slot: Slot, submission: Submission) -> Report:
        try:
            report = await self._judge(slot, submission)
        finally:
            self._idle.put_nowait(slot)
        self.metrics.verdicts.labels(submission.language, report.verdict).inc()
        self.metrics.cases.inc(len(report.cases))
        return report

    async def _judge(self, slot: Slot, submission: Submission) -> Report:
        for attempt in range(1, MAX_TRIES + 1):
            try:
                return await asyncio.wrap_future(slot.submit(lambda slot: judge(slot, submission, self.languages)))
            except JailError as error:
                self.metrics.jail_failures.inc()
                log.warning("slot %d, attempt %d of %d: %s", slot.index, attempt, MAX_TRIES, error)
                if attempt == MAX_TRIES:
                    raise
        raise AssertionError


class Metrics:
    """Counters in a registry of their own, so that two services in one process do not meet."""

    def __init__(self, pool: Pool) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "k15", "subsystem": "sandbox"}
        self.verdicts = Counter("submissions", "Submissions judged", ["language", "verdict"], **own)
        self.cases = Counter("cases", "Cases run", **own)
        self.refused = Counter("refused", "Submissions refused because the queue was full", **own)
        self.jail_failures = Counter("jail_failures", "Jails that could not be made or cleared", **own)
        self.queue_seconds = Histogram("queue_seconds", "Wait for a slot", **own)
        self.run_seconds = Histogram("run_seconds", "Submission to report, waiting included", **own)
        Gauge("slots", "Programs that can run at one time", **own).set(pool.num_slots)
        Gauge("busy_slots", "Slots in use", **own).set_function(lambda: pool.num_busy)
        Gauge("waiting", "Submissions waiting", **own).set_function(lambda: pool.num_waiting)
