"""The documents' commands on the tiny model, one after another; in this process, since starts take longest."""

import importlib
import json
import shlex
import shutil
from pathlib import Path

import pytest

from megatron_k15.config import SftConfig, load_config_of
from tests.data.chat_model import chat_model, sums, write_rows
from tests.documents import ROOT, code_blocks

DOCUMENT = "docs/stages.md"
PHASE = "{sequence_tokens: 256, learning_rate: 1e-4, min_learning_rate: 1e-5, packs_per_step: 4}"
SMALL = f"model: {{dtype: fp32}}\nmetrics: {{wandb: off, tensorboard: false}}\nphases:\n  - {PHASE}\n"


def _run(command: str) -> None:
    python, *words = shlex.split(command)
    assert python == "python"
    if words[0] == "-m":
        module, *arguments = words[1:]
    else:
        module, arguments = words[0].removesuffix(".py").replace("/", "."), words[1:]
    assert importlib.import_module(module).main(arguments) == 0, command


def test_every_command_of_the_document_works(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chat_model(tiny_model_dir, tmp_path / "models" / "start")
    _, pair, judged = (json.loads(block) for block in code_blocks(DOCUMENT, "json"))
    write_rows(tmp_path / "chats.jsonl", sums(12))
    write_rows(tmp_path / "pairs.jsonl", [pair] * 4)
    write_rows(tmp_path / "judged.jsonl", [judged, {**judged, "correct": True}] * 4)
    for name in ("sft", "dpo", "rm"):
        (tmp_path / f"{name}.yaml").write_text(SMALL)
    commands = code_blocks(DOCUMENT, "bash")
    assert len(commands) == 3
    monkeypatch.chdir(tmp_path)
    for command in commands:
        _run(command)
    assert capsys.readouterr().out.count("done: runs/") == 3


def test_the_phases_shown_are_the_defaults(tmp_path: Path) -> None:
    (shown,) = code_blocks(DOCUMENT, "yaml")
    (tmp_path / "shown.yaml").write_text(shown)
    assert load_config_of(SftConfig, tmp_path / "shown.yaml").phases == SftConfig().phases


def test_the_pretraining_recipe_is_planned(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "models" / "start")
    shutil.copy(ROOT / "examples/pretraining/three_stages.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "texts.jsonl", [{"text": f"{n} and {n + 1} and so on"} for n in range(200)])
    tokenizer, plan_command = code_blocks("docs/pretraining.md", "bash")
    _run(tokenizer)
    _run(plan_command)
    plan = capsys.readouterr().out
    assert plan.count("40% with full attention") == 2
    assert "64 x 131072 tokens" in plan
