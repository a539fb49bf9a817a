"""Stages that run one after another, each a command: done once, gone on with where it stopped, done again where
something that it depends on has changed."""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

SHOWN_SECONDS = 30.0
STOP_SECONDS = 90.0
"""How long a command that was interrupted may take to end."""


class StageError(Exception):
    """A stage's command failed; the text says which, and where its output is."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    command: tuple[str, ...]
    """From the repository's root."""
    after: tuple[str, ...] = ()
    """Stages whose results it uses."""
    reads: tuple[Path, ...] = ()
    """Files besides: when one changes, the stage is done again."""
    writes: Path
    """What it leaves. Removed before the stage is done again for another reason than having been stopped."""


class Runner:
    """Keeps a record per stage below `run_dir/stages`: what it ran as, and how long it took."""

    def __init__(self, stages: Sequence[Stage], run_dir: Path, *, say: Callable[[str], None] = print) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._folder = run_dir / "stages"
        self._say = say

    def run(self, only: Sequence[str] = ()) -> None:
        """
        Args:
            only: these stages, even where they are done; empty runs all that are not.

        Raises:
            StageError: a command failed, or `only` names what there is not.
        """
        for name in only:
            self._redo(name)
        self._folder.mkdir(parents=True, exist_ok=True)
        wanted = [self._stages[name] for name in only] if only else list(self._stages.values())
        for number, stage in enumerate(wanted, start=1):
            self._run(stage, f"[{number}/{len(wanted)}] {stage.name}")

    def seconds(self) -> dict[str, float]:
        """Of each stage that is done."""
        return {name: float(record["seconds"]) for name in self._stages if (record := self._record(name)).get("done")}

    def _redo(self, name: str) -> None:
        if name not in self._stages:
            raise StageError(f"there is no stage {name!r}; there are {', '.join(self._stages)}")
        self._path(name).unlink(missing_ok=True)

    def _run(self, stage: Stage, title: str) -> None:
        fingerprint, record = self._fingerprint(stage), self._record(stage.name)
        if record.get("fingerprint") == fingerprint and record["done"] and stage.writes.exists():
            self._say(f"{title}: done before, in {record['seconds']:.0f} s")
            return
        goes_on = record.get("fingerprint") == fingerprint and not record["done"]
        if not goes_on:
            _remove(stage.writes)
        before = float(record["seconds"]) if goes_on else 0.0
        log = self._folder / f"{stage.name}.log"
        self._write(stage.name, fingerprint, done=False, seconds=before)
        self._say(f"{title}{', gone on with' if goes_on else ''}: {shlex.join(stage.command)}")
        started = time.monotonic()
        try:
            status = _call(stage.command, log)
        finally:
            seconds = before + time.monotonic() - started
            self._write(stage.name, fingerprint, done=False, seconds=seconds)
        if status or not stage.writes.exists():
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise StageError(f"stage {stage.name} failed (exit status {status}); the end of {log}:\n{tail}")
        self._write(stage.name, fingerprint, done=True, seconds=seconds)
        self._say(f"{title}: {seconds:.0f} s")

    def _fingerprint(self, stage: Stage) -> str:
        """Of all that decides the result. A stage done again changes those after it."""
        parts = [list(stage.command), [self._record(name).get("id", "") for name in stage.after]]
        parts += [[str(path), path.read_text()] for path in stage.reads]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _record(self, name: str) -> Mapping[str, Any]:
        path = self._path(name)
        return json.loads(path.read_text()) if path.exists() else {}

    def _write(self, name: str, fingerprint: str, *, done: bool, seconds: float) -> None:
        record = {"fingerprint": fingerprint, "done": done, "seconds": seconds}
        if done:
            record["id"] = f"{fingerprint} {time.time()}"
        new = self._path(name).with_suffix(".new")
        new.write_text(json.dumps(record))
        new.rename(self._path(name))


def _call(command: Sequence[str], log: Path) -> int:
    """Its output goes to the log, and the newest line of it to the terminal, over and over; now and then where that is
    a file."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("a") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        assert process.stdout is not None
        try:
            shown = time.monotonic()
            for line in process.stdout:
                file.write(line)
                if sys.stdout.isatty():
                    print(f"\r\x1b[K  {line.strip()[:110]}", end="", flush=True)
                elif time.monotonic() - shown > SHOWN_SECONDS:
                    print(f"  {line.strip()[:110]}", flush=True)
                    shown = time.monotonic()
        except KeyboardInterrupt:
            # The terminal's Ctrl-C has reached the command as well: it stops what it has started.
            try:
                file.write(process.communicate(timeout=STOP_SECONDS)[0])
            except subprocess.TimeoutExpired:
                process.kill()
            raise
        if sys.stdout.isatty():
            print("\r\x1b[K", end="")
        return process.wait()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
