"""A record is whole or absent, whatever happened to the file."""

import subprocess
import sys
from pathlib import Path

import pytest

from megatron_k15.errors import ReplayError
from megatron_k15.replay.record_file import FRAME, RecordWriter, read, scan
from tests.launch import ROOT

PAYLOADS = [b"one", b"two" * 1000, b"", b"four"]


def _write(path: Path) -> None:
    writer = RecordWriter(path)
    writer.append(PAYLOADS[:1])
    writer.append(PAYLOADS[1:])
    writer.close()


def _payloads(path: Path) -> list[bytes]:
    return [bytes(payload) for _, payload in scan(path)]


def test_records_come_back_in_order_and_by_place(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log"
    _write(path)
    assert _payloads(path) == PAYLOADS
    assert [read(place) for place, _ in scan(path)] == PAYLOADS


def test_a_torn_tail_of_any_length_is_passed_over_and_cut_off(tmp_path: Path) -> None:
    """Cut the file at every byte of its last record: the others stay, and appending goes on after them."""
    path = tmp_path / "log"
    _write(path)
    whole = path.read_bytes()
    last = FRAME.size + len(PAYLOADS[-1])
    for cut in range(1, last + 1):
        path.write_bytes(whole[:-cut])
        assert _payloads(path) == PAYLOADS[:-1]
    path.write_bytes(whole[:-1] + b"?")
    writer = RecordWriter(path)
    (place,) = writer.append([b"five"])
    writer.close()
    assert _payloads(path) == [*PAYLOADS[:-1], b"five"]
    assert read(place) == b"five"


@pytest.mark.parametrize("position", [5, FRAME.size, FRAME.size + 2], ids=["length", "payload", "payload's end"])
def test_damage_before_whole_records_is_refused_by_place(position: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    _write(path)
    content = bytearray(path.read_bytes())
    (first, _), *_ = scan(path)
    content[position] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ReplayError, match=r"log is damaged at byte 0, with whole records behind it"):
        list(scan(path))
    with pytest.raises(ReplayError, match="damaged"):
        RecordWriter(path)
    with pytest.raises(ReplayError, match=f"damaged at byte {FRAME.size}"):
        read(first)


FILL = """
import resource, signal, sys
from pathlib import Path
from megatron_k15.errors import ReplayError
from megatron_k15.replay.record_file import RecordWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
writer = RecordWriter(Path(sys.argv[1]))
writer.append([b"kept"])
try:
    writer.append([b"x" * 3000, b"y" * 3000])
except ReplayError as error:
    print(error)
writer.append([b"after"])
"""


def test_a_full_disk_is_one_clear_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    """A limit on the file's size stands for the full disk: the second append writes some and then fails."""
    path = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", FILL, path], capture_output=True, text=True, cwd=ROOT, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"the replay buffer must write {path}: File too large" in done.stdout
    assert _payloads(path) == [b"kept", b"after"]
