"""Resume checkpoints and the export of a live model: every layout, full disks, damage."""

import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from megatron_k15.checkpoint import manifest
from megatron_k15.checkpoint.resume import find_newest
from megatron_k15.errors import CheckpointError
from tests.checkpoint.test_conversion import assert_same
from tests.launch import run_ranks
from tests.models.tiny_models import build

SCRIPT = Path(__file__).with_name("ranks_resume.py")
LAYOUTS = ("1x1x2", "2x1x1", "1x2x1")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """What two ranks wrote, and what they printed."""
    work = tmp_path_factory.mktemp("resume")
    build(work / "hf", "qwen2", tied=True, vocab_size=251)
    disks = {"full": "size=100k", "few_files": "size=20m,nr_inodes=4"}
    for name, options in disks.items():
        (work / name).mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(work / name)], check=True)
    try:
        (work / "full" / "hf").mkdir()
        (work / "full" / "hf" / "config.json").write_text("{}")
        output = run_ranks(SCRIPT, 2, "write", str(work))
        yield work, output
    finally:
        for name in disks:
            subprocess.run(["umount", str(work / name)], check=False)


def test_export_is_the_source_bit_for_bit_at_every_layout(written: tuple[Path, str]) -> None:
    work, _ = written
    for layout in LAYOUTS:
        assert_same(work / "hf", work / f"export_{layout}")
    model = AutoModelForCausalLM.from_pretrained(work / "export_2x1x1")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_checkpoint_loads_at_other_layouts(written: tuple[Path, str]) -> None:
    """Saved at TP 2; loaded on one rank, on two data-parallel ranks, at TP 2 and at PP 2."""
    work, _ = written
    run_ranks(SCRIPT, 1, "read", str(work))
    for layout in ("1x1x1", *LAYOUTS):
        assert_same(work / "hf", work / f"loaded_{layout}")


def test_only_the_newest_are_kept_and_nothing_is_left_over(written: tuple[Path, str]) -> None:
    work, _ = written
    assert sorted(path.name for path in (work / "resume").iterdir()) == ["iteration_0000002", "iteration_0000003"]
    assert not [path for path in work.iterdir() if path.name.startswith(".")]


def test_full_disks_are_one_error_on_every_rank_and_spare_what_was_there(written: tuple[Path, str]) -> None:
    work, output = written
    assert "save, full: " in output
    assert "no space left on device: it takes" in output
    assert "save, few files: " in output
    assert output.count("No space left on device") == 2, output
    assert list((work / "full" / "resume").iterdir()) == []
    assert list((work / "few_files").iterdir()) == []
    assert [path.name for path in (work / "full").iterdir() if path.name != "resume"] == ["hf"]
    assert (work / "full" / "hf" / "config.json").read_text() == "{}"


def test_exports_that_would_do_harm_are_refused(written: tuple[Path, str]) -> None:
    work, output = written
    assert "it is the model that the run started from" in output
    assert "it exists and is no Hugging Face directory" in output
    assert "the ranks hold 0 of the 64 elements of model.norm.weight" in output
    assert not (work / "never").exists()


def _fake(root: Path, iteration: int) -> Path:
    path = root / f"iteration_{iteration:07d}"
    path.mkdir(parents=True)
    (path / "__0_0.distcp").write_bytes(bytes(100))
    manifest.write(path, {"iteration": iteration})
    return path


def test_find_newest_skips_damaged_checkpoints_and_names_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_newest(tmp_path / "nowhere") is None
    first, second, third = (_fake(tmp_path, iteration) for iteration in (9, 10, 11))
    (tmp_path / ".iteration_0000012.x.tmp").mkdir()
    assert find_newest(tmp_path) == third
    (third / "__0_0.distcp").unlink()
    with caplog.at_level(logging.WARNING):
        assert find_newest(tmp_path) == second
    assert "iteration_0000011 is incomplete: __0_0.distcp is missing" in caplog.text
    (second / "__0_0.distcp").write_bytes(bytes(99))
    assert find_newest(tmp_path) == first
    (first / manifest.NAME).write_text("{")
    with pytest.raises(CheckpointError) as refusal:
        find_newest(tmp_path)
    for text in ("__0_0.distcp is missing", "has 99 bytes, must have 100", f"{manifest.NAME} is damaged"):
        assert text in str(refusal.value)
    shutil.rmtree(first)
    with pytest.raises(CheckpointError, match="no checkpoint of"):
        find_newest(tmp_path)
