"""Live in a terminal, plain lines in a log, and no command of a foreign text reaches either."""

import io
import os
import pty
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from megatron_k15.metrics import Progress, progress
from megatron_k15.metrics.printable import printable


def test_a_log_gets_a_line_at_the_start_and_the_end() -> None:
    stream = io.StringIO()
    log = Progress(stream)
    with log.phase("rollout") as update:
        for count in range(1000):
            update(f"{count}/1000")
    log.say("done [bold]x[/bold]")
    first, last, said = stream.getvalue().splitlines()
    assert first == "rollout …"
    assert re.fullmatch(r"rollout: done in \d+\.\d s", last)
    assert said == "done [bold]x[/bold]"


def test_a_log_gets_an_update_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_SECONDS", 0.0)
    stream = io.StringIO()
    with Progress(stream).phase("rollout") as update:
        update("3/8 \x1b[2J")
    assert re.fullmatch(r"rollout: 3/8 \\x1b\[2J \(\d+ s\)", stream.getvalue().splitlines()[1])


def test_a_failed_phase_says_so() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError), Progress(stream).phase("training"):
        raise ValueError
    assert re.fullmatch(r"training: failed after \d+\.\d s", stream.getvalue().splitlines()[-1])


def test_threads_do_not_mix_their_lines() -> None:
    stream = io.StringIO()
    log = Progress(stream)

    def talk(name: str) -> None:
        for _ in range(200):
            log.say(name * 50)

    threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {len(line) for line in stream.getvalue().splitlines()} == {50}
    assert {len(set(line)) for line in stream.getvalue().splitlines()} == {1}


def test_a_terminal_gets_a_live_line_with_elapsed_seconds(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import threading, time
        from megatron_k15.metrics import Progress
        progress = Progress()
        with progress.phase("rollout") as update, progress.phase("watching"):
            thread = threading.Thread(target=lambda: (update("3/8 responses"), progress.say("vLLM \\x1b[2J restarted")))
            thread.start()
            thread.join()
            time.sleep(0.3)
        progress.say("finished")
    """)
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    output = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # how a pty says that the other side closed it
            break
        if not chunk:
            break
        output += chunk
    os.close(master)
    assert process.wait(30) == 0
    text = output.decode()
    assert "3/8 responses" in text
    assert "0:00:00" in text
    assert "watching" in text
    assert "vLLM \\x1b[2J restarted" in text
    assert "finished" in text


def test_printable_text_cannot_command_a_terminal() -> None:
    assert printable("a\tb\nc é 日 λ") == "a\tb\nc é 日 λ"
    assert printable("\x1b[31m\x00\r\x08\x9b\x7f") == r"\x1b[31m\x00\r\x08\x9b\x7f"
    assert printable("\u202e\u200b\u2028\ud800") == r"\u202e\u200b\u2028\ud800"
