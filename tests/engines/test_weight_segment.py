import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import xxhash

from megatron_k15.engines.weight_segment import (
    SHARED_MEMORY_DIR,
    SegmentLayout,
    WeightSegment,
    read_layout,
    remove_stale_segments,
    update_info,
)
from megatron_k15.errors import TransferError

SHAPES = [("embed", (33, 8)), ("norm", (8,)), ("head", (5, 3))]


@pytest.fixture(params=["fp32", "bf16"])
def segment(request):
    made = WeightSegment.create(SegmentLayout.plan(SHAPES, request.param))
    yield made
    made.close()
    made.unlink()


def test_slots_are_aligned_and_do_not_overlap():
    layout = SegmentLayout.plan(SHAPES, "bf16")
    assert [slot.num_bytes for slot in layout.slots] == [33 * 8 * 2, 16, 30]
    ends = [4096]
    for slot in layout.slots:
        assert slot.offset % 64 == 0
        assert slot.offset >= ends[-1]
        ends.append(slot.offset + slot.num_bytes)
    assert layout.total_bytes >= ends[-1]


def test_digest_tells_layouts_apart():
    digests = {
        SegmentLayout.plan(SHAPES, "fp32").digest,
        SegmentLayout.plan(SHAPES, "bf16").digest,
        SegmentLayout.plan(SHAPES[::-1], "fp32").digest,
        SegmentLayout.plan([("embed", (8, 33)), *SHAPES[1:]], "fp32").digest,
    }
    assert len(digests) == 4
    assert SegmentLayout.plan(iter(SHAPES), "fp32").digest in digests


@pytest.mark.parametrize("tensors", [[], [("a", (2,)), ("a", (3,))], [("a", (0, 4))]])
def test_bad_layouts_are_refused(tensors):
    with pytest.raises(TransferError):
        SegmentLayout.plan(tensors, "fp32")


def test_another_dtype_is_refused():
    with pytest.raises(TransferError, match="fp16"):
        SegmentLayout.plan(SHAPES, "fp16")


def test_another_process_reads_what_was_written(segment):
    """Writer and reader share the bytes; the reader rebuilds the layout from the JSON alone."""
    segment.begin(3)
    for slot in segment.layout.slots:
        segment.tensor(slot.name).normal_()
    checksums = {slot.name: segment.checksum(slot.name) for slot in segment.layout.slots}
    segment.complete(3, checksums)
    reader = (
        "import json, sys\n"
        "from megatron_k15.engines.weight_segment import WeightSegment, read_layout\n"
        "info = json.loads(sys.argv[1])\n"
        "layout, checksums = read_layout(info['dtype'], info['tensors'])\n"
        "segment = WeightSegment.open(info['path'], layout, writable=False)\n"
        "segment.check_complete(info['version'], checksums)\n"
        "print({name: segment.checksum(name) for name in checksums} == checksums)\n"
        "print(segment.tensor('embed').double().sum().item())\n"
    )
    info = json.dumps(update_info(segment, 3, checksums))
    output = subprocess.run([sys.executable, "-c", reader, info], check=True, capture_output=True, text=True).stdout
    agrees, total = output.split()
    assert agrees == "True"
    assert float(total) == segment.tensor("embed").double().sum().item()


def test_checksum_is_of_exactly_the_tensors_bytes(segment):
    segment.tensor("embed").normal_()
    segment.tensor("norm").fill_(1)
    raw = segment.tensor("norm").contiguous().view(torch.uint8).numpy().tobytes()
    assert segment.checksum("norm") == xxhash.xxh3_128_hexdigest(raw)
    before = segment.checksum("embed"), segment.checksum("norm")
    segment.tensor("embed")[-1, -1] += 1
    assert segment.checksum("embed") != before[0]
    assert segment.checksum("norm") == before[1]


def test_a_version_is_complete_only_between_complete_and_the_next_begin(segment):
    checksums = {slot.name: segment.checksum(slot.name) for slot in segment.layout.slots}
    with pytest.raises(TransferError, match="empty"):
        segment.check_complete(0, checksums)
    with pytest.raises(TransferError, match="begin"):
        segment.complete(1, checksums)
    segment.begin(1)
    with pytest.raises(TransferError, match="writing version 1"):
        segment.check_complete(1, checksums)
    segment.complete(1, checksums)
    segment.check_complete(1, checksums)
    with pytest.raises(TransferError, match="version 1 is complete"):
        segment.check_complete(2, checksums)
    with pytest.raises(TransferError, match="other checksums"):
        segment.check_complete(1, {**checksums, "norm": "0" * 32})
    segment.begin(2)
    with pytest.raises(TransferError, match="writing version 2"):
        segment.check_complete(1, checksums)


def test_a_missing_checksum_is_named(segment):
    segment.begin(1)
    with pytest.raises(TransferError, match="norm"):
        segment.complete(1, {"embed": "0", "head": "0"})


def test_a_full_dev_shm_is_an_error_with_sizes_and_leaves_nothing():
    free = os.statvfs("/dev/shm")
    too_much = SegmentLayout.plan([("a", (free.f_blocks * free.f_frsize,))], "fp32")
    before = set(SHARED_MEMORY_DIR.iterdir())
    with pytest.raises(TransferError, match=r"need \d+\.\d MB in /dev/shm"):
        WeightSegment.create(too_much)
    assert set(SHARED_MEMORY_DIR.iterdir()) <= before


def test_open_refuses_other_files(segment, tmp_path):
    layout = segment.layout
    outside = tmp_path / "weights"
    outside.write_bytes(b"\0" * layout.total_bytes)
    with pytest.raises(TransferError, match="/dev/shm"):
        WeightSegment.open(outside, layout)
    with pytest.raises(TransferError, match="/dev/shm"):
        WeightSegment.open("/dev/shm/../dev/shm/x", layout)
    with pytest.raises(TransferError, match="names, shapes and dtype"):
        WeightSegment.open(
            segment.path, SegmentLayout.plan([("x", shape) for _, shape in SHAPES][:1] + SHAPES[1:], layout.dtype)
        )
    with pytest.raises(TransferError, match="bytes"):
        WeightSegment.open(segment.path, SegmentLayout.plan([*SHAPES, ("more", (99,))], layout.dtype))


def test_open_refuses_links_and_open_modes(segment):
    link = SHARED_MEMORY_DIR / f"k15_test_link_{os.getpid()}"
    link.symlink_to(segment.path)
    try:
        with pytest.raises(TransferError, match="cannot be opened"):
            WeightSegment.open(link, segment.layout)
    finally:
        link.unlink()
    segment.path.chmod(0o644)
    with pytest.raises(TransferError, match="mode"):
        WeightSegment.open(segment.path, segment.layout)


def test_tensors_outlive_close_and_the_file(segment):
    values = segment.tensor("norm")
    values.fill_(2)
    segment.close()
    segment.close()
    segment.unlink()
    assert values.sum() == 16
    with pytest.raises(TransferError, match="closed"):
        segment.tensor("norm")


def test_only_segments_of_dead_creators_are_removed(segment):
    """A dead creator leaves its file; the living creator's and a locked one under a foreign process id stay."""
    creator = (
        "import sys; from megatron_k15.engines.weight_segment import SegmentLayout, WeightSegment\n"
        "print(WeightSegment.create(SegmentLayout.plan([('a', (4,))], 'fp32')).path)"
    )
    output = subprocess.run([sys.executable, "-c", creator], check=True, capture_output=True, text=True).stdout
    left_behind = Path(output.strip())  # until a run of another test, starting now, removes it too
    dead_pid = left_behind.name.split("_")[2]
    other_container = WeightSegment.create(segment.layout, name=f"k15_weights_{dead_pid}_abcdef")
    try:
        remove_stale_segments()
        assert not left_behind.exists()
        assert segment.path.exists()
        assert other_container.path.exists()
    finally:
        other_container.close()
        other_container.unlink()


def test_layout_survives_json(segment):
    checksums = {slot.name: segment.checksum(slot.name) for slot in segment.layout.slots}
    info = json.loads(json.dumps(update_info(segment, 9, checksums)))
    assert read_layout(info["dtype"], info["tensors"]) == (segment.layout, checksums)
