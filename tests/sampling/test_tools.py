"""The tools as a user runs them; the model's answers are written down, all else is real."""

import argparse
import json
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from megatron_k15.sampling import building
from megatron_k15.sampling.answering import Answerer
from tests.documents import code_blocks
from tests.sampling.scripted_model import ScriptedModel
from tools import evaluate

PROBLEMS = [
    {"id": "add", "prompt": "What is 3 + 4?", "answer": "7"},
    {"id": "half", "prompt": "What is 1/2 + 1/4?", "answer": "3/4"},
    {"id": "never", "prompt": "What is 19 * 23?", "answer": "437"},
]
ANSWERS = {
    "add": [
        r"Plan: add. Check: 4 + 3 is 7 again. \boxed{7}",
        r"\boxed{7}",
        r"It may be, or I am wrong, \boxed{8}",
        r"\boxed{9}",
    ],
    "half": [r"That is \boxed{0.75}", r"\boxed{\frac{3}{4}}"],
    "never": [r"\boxed{400}"],
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedModel:
    """In place of the answerer that the options name."""
    scripted = ScriptedModel(reasoned=ANSWERS)

    @asynccontextmanager
    async def opened(
        options: argparse.Namespace, log_dir: Path, say: Callable[[str], None]
    ) -> AsyncIterator[Answerer | None]:
        yield scripted if options.model else None

    monkeypatch.setattr(building, "open_answerer", opened)
    monkeypatch.setattr(evaluate, "open_answerer", opened)
    monkeypatch.chdir(tmp_path)
    Path("problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    return scripted


def _run(command: str) -> int:
    python, tool, *arguments = shlex.split(command)
    assert python == "python"
    return import_module(tool.removesuffix(".py").replace("/", ".")).main(arguments)


def _rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def _answers(path: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in _rows(path):
        assert row["messages"][0] == {
            "role": "user",
            "content": {one["id"]: one["prompt"] for one in PROBLEMS}[row["id"]],
        }
        found.setdefault(row["id"], []).append(row["messages"][1]["content"])
    return found


def test_the_documents_commands(model: ScriptedModel, capsys: pytest.CaptureFixture[str]) -> None:
    (commands,) = code_blocks("docs/sampling.md", "bash")
    long_cot, rejection, shortest, preferences = commands.splitlines()
    assert _run(long_cot) == 0
    assert _answers("data/long_cot.jsonl") == {"add": [ANSWERS["add"][0]]}
    report = json.loads(Path("data/long_cot.report.json").read_text())
    assert report["dropped"] == {"no correct answer that shows 2 kinds of thought": 1, "no correct answer": 1}
    assert report["kinds"] == {"planning": 1, "evaluation": 1, "reflection": 1, "exploration": 0}
    assert len({ask.instruction for _, ask in model.asked}) == 4, "a template per kind of thought"
    assert _run(rejection) == 0
    assert _answers("data/answers.jsonl") == {"add": ANSWERS["add"][:2], "half": ANSWERS["half"]}
    assert _run(shortest) == 0
    assert _answers("data/short/rows.jsonl") == {"add": [r"\boxed{7}"], "half": [r"\boxed{\frac{3}{4}}"]}
    asked = len(model.asked)
    assert _run(preferences) == 0
    assert len(model.asked) == asked, "the same answers serve both"
    pairs = {(row["chosen"], row["rejected"]) for row in _rows("data/pairs.jsonl")}
    assert pairs == {
        (r"\boxed{7}", ANSWERS["add"][0]),
        (r"\boxed{7}", ANSWERS["add"][2]),
        (r"\boxed{\frac{3}{4}}", ANSWERS["half"][0]),
    }
    assert "share correct" in capsys.readouterr().out


def test_open_prompts_are_asked_again(model: ScriptedModel, capsys: pytest.CaptureFixture[str]) -> None:
    command = "python tools/build_shortest.py --prompts problems.jsonl --model m --output rows.jsonl"
    model.silent = {"half"}
    assert _run(command) == 1
    assert "1 prompts are not done; run the same command again" in capsys.readouterr().err
    model.silent, model.asked = set(), []
    assert _run(command) == 0
    assert [name for name, _ in model.asked] == ["half"]
    assert set(_answers("rows.jsonl")) == {"add", "half"}


def test_what_is_wrong_is_one_line(model: ScriptedModel, capsys: pytest.CaptureFixture[str]) -> None:
    Path("twice.jsonl").write_text(Path("problems.jsonl").read_text() + json.dumps(PROBLEMS[0]) + "\n")
    tools = "python tools/"
    for command, says in (
        ("build_shortest.py --prompts problems.jsonl --output o.jsonl", "nobody answers: name a model directory"),
        ("build_shortest.py --prompts twice.jsonl --model m --output o.jsonl", "must be unique"),
        ("build_long_cot.py --prompts problems.jsonl --model m --output o.jsonl --template x", "hold {prompt}"),
        ("build_long_cot.py --prompts problems.jsonl --model m --output o.jsonl --sign x", "KIND=WORD"),
        ("evaluate.py --model m --output o", "nothing to evaluate on"),
        ("evaluate.py --model m --prompts problems.jsonl --output o --k 9", "between 1 and --num-samples (4), got 9"),
        ("evaluate.py --model m --prompts problems.jsonl --output o --temperature 0", "same answer every time"),
    ):
        assert _run(tools + command) == 1, command
        assert says in capsys.readouterr().err
    model.silent = {"half"}
    assert _run(tools + "evaluate.py --model m --prompts problems.jsonl --output o") == 1
    assert "1 prompts got no answer" in capsys.readouterr().err
    assert not Path("o/results.json").exists()


def test_the_evaluation_shown(model: ScriptedModel, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = code_blocks("docs/evaluation.md", "bash")
    assert _run(command) == 0
    results = json.loads(Path("results/results.json").read_text())
    ours = results["tasks"]["problems"]
    # add: 2 of 4 right, 7 twice among 7 7 8 9; half: all; never: none.
    assert ours["pass@1"]["value"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert ours["pass@4"]["value"] == pytest.approx(2 / 3)
    assert ours["maj@4"]["value"] == pytest.approx(2 / 3)
    assert ours["pass@2"]["value"] == pytest.approx((5 / 6 + 1 + 0) / 3)
    assert (ours["num_prompts"], ours["num_answers"]) == (3, 4)
    assert results["tasks"]["chain_sum"]["pass@1"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert Path("results/results.png").read_bytes().startswith(b"\x89PNG")
    assert "95% interval" in capsys.readouterr().out
    asked = len(model.asked)
    assert _run(command) == 0
    assert len(model.asked) == asked
