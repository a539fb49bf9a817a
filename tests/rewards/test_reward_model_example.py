"""examples/reward_models: what its data says, and its commands on a tiny model."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from megatron_k15.rewards.cot.verdict import read_verdict
from tests.data.chat_model import chat_model
from tests.documents import ROOT, code_blocks, run_shown
from tests.rewards.answer_pairs import labelled_rows

README = "examples/reward_models/README.md"


@pytest.fixture(scope="module")
def make_data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_data", ROOT / "examples/reward_models/make_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_no_held_out_pair_is_trained_on_and_both_models_learn_the_same(make_data: ModuleType, tmp_path: Path) -> None:
    assert make_data.main([str(tmp_path), "--pairs-per-maker", "6", "--sums", "50"]) == 0
    held_out, classic, chats = (_rows(tmp_path / f"{name}.jsonl") for name in ("held_out", "classic", "cot"))
    trained = {(row["reference"], row["response"]): row["correct"] for row in classic}
    assert not {(row["reference"], row["given"]) for row in held_out} & trained.keys()
    labels = {(row["reference"], row["given"]): row["label"] for row in labelled_rows()}
    assert all(labels[row["reference"], row["given"]] == row["label"] for row in held_out)
    assert len(labels) * 0.4 < len(held_out) < len(labels) * 0.6
    for row, chat in zip(classic, chats, strict=True):
        asked, answer = chat["messages"]
        assert read_verdict(answer["content"]) is row["correct"]
        # What is said of the two agrees with the verdict.
        assert ("They agree." in answer["content"]) is row["correct"]
        assert row["correct"] == labels.get((row["reference"], row["response"]), row["correct"])
        assert "Student's response" in asked["content"]


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        (r"\dfrac{14}{4}", "7/2"),
        (r"\left( -1, 0.5 \right]", "(-1, 1/2]"),
        ("2 < x \\le 3", "(2, 3]"),
        ("x=3, x=-1", None),
        (r"3\sqrt{2}", None),
        (r"5\text{ cm}", None),
        ("(1, x)", None),
        ("((((", None),
    ],
)
def test_plain_values(make_data: ModuleType, answer: str, plain: str | None) -> None:
    assert make_data._plain(answer) == plain


def test_the_commands_shown(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Training for a few steps on a tiny model; the judges' own verdicts are tested in classic/ and cot/."""
    data_and_training, evaluation, run = code_blocks(README, "bash")
    for name in ("examples", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    model = chat_model(tiny_model_dir, tmp_path / "model")
    little = f"model.path={model} model.dtype=fp32 'phases=[{{sequence_tokens: 2048, packs_per_step: 64}}]'"
    lines = data_and_training.replace(".yaml", f".yaml {little}").splitlines()
    shown = run_shown(lines[0], folder=tmp_path)
    assert shown.returncode == 0, shown.stderr[-3000:]
    for name in ("classic", "cot"):
        path = tmp_path / f"runs/reward_models/data/{name}.jsonl"
        path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:12]), encoding="utf-8")
    shown = run_shown("\n".join(lines[1:]), folder=tmp_path, seconds=300)
    assert shown.returncode == 0, shown.stderr[-3000:]
    for kind in ("classic", "cot"):
        assert (tmp_path / f"runs/reward_models/{kind}/hf/model.safetensors").exists()
    shown = run_shown(f"{evaluation.rstrip()} --source text --every 10", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr[-3000:]
    assert "text" in shown.stdout
    shown = run_shown(f"{run.rstrip()} --dry-run", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr[-3000:]
