"""The commands of docs/partial_rollouts.md, run as they stand over a small buffer."""

import asyncio
import os
from pathlib import Path

import pytest

from megatron_k15.replay.buffer import ReplayBuffer
from megatron_k15.types import FinishReason, Segment, SegmentKey, SegmentRecord, VersionSpan
from tests.documents import code_blocks, run_shown
from tests.launch import ROOT

PROMPT_ID = "chain_sum/17"
RUN_DIR = Path("runs/quickstart")


def _record(iteration: int, offset: int, reason: FinishReason, *tokens: int) -> SegmentRecord:
    segment = Segment(
        kind="sampled",
        token_ids=tokens,
        logprobs=(-0.5,) * len(tokens),
        loss_mask=(True,) * len(tokens),
        versions=(VersionSpan(version=iteration, start=0, end=len(tokens)),),
    )
    key = SegmentKey(iteration=iteration, drawn_iteration=2, prompt_id=PROMPT_ID, sample_index=0, offset=offset)
    return SegmentRecord(key=key, segments=(segment,), finish_reason=reason)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place with tools/ and a run that has one open response of 5 tokens."""
    buffer = ReplayBuffer(tmp_path / RUN_DIR / "replay", run="r")

    async def fill() -> None:
        await buffer.journal.start_iteration(2)
        await buffer.journal.record(_record(2, 0, "budget", 4711, 4712, 4713))
        await buffer.journal.start_iteration(3)
        await buffer.journal.record(_record(3, 3, "budget", 4714, 4715))

    asyncio.run(fill())
    buffer.close()
    checkpoint = tmp_path / RUN_DIR / "checkpoints" / "iteration_0000004"
    checkpoint.mkdir(parents=True)
    for path in (tmp_path / RUN_DIR / "replay").iterdir():
        os.link(path, checkpoint / f"replay_{path.name}")
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    return tmp_path


def test_every_command_of_the_document_works(folder: Path) -> None:
    (commands,) = code_blocks("docs/partial_rollouts.md", "bash")
    result = run_shown(commands, folder=folder, COLUMNS="160")
    assert result.returncode == 0, result.stderr
    assert "1 groups, 1 of them with open responses" in result.stdout
    assert "5+" in result.stdout
    assert "2 to 3" in result.stdout
    assert "from token 3: budget" in result.stdout
    assert "4715" in result.stdout


def test_damage_is_shown_and_is_a_failing_exit_status(folder: Path) -> None:
    path = folder / RUN_DIR / "replay" / "iteration_0000002.log"
    whole = path.read_bytes()
    path.write_bytes(whole + whole)
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    result = run_shown("python tools/show_replay.py runs/quickstart", folder=folder, COLUMNS="160")
    assert result.returncode == 1
    assert "is damaged at byte 0" in " ".join(result.stdout.split())
    nothing = run_shown("python tools/show_replay.py tools", folder=folder, COLUMNS="160")
    assert nothing.returncode == 1
    assert nothing.stderr.startswith("error: tools has no replay buffer")
