"""What docs/sandbox.md shows is what happens."""

import contextlib
import io
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_k15.config import load_config
from megatron_k15.prompts.files import read_files
from megatron_k15.rows.problems import Problems
from megatron_k15.sandbox.client import SandboxClient
from megatron_k15.sandbox.values import Submission
from tests.documents import ROOT, code_blocks
from tests.sandbox.running_service import fresh_uid

DOCUMENT = "docs/sandbox.md"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The shown command, at a free port, with the shown languages."""
    (command,) = [block for block in code_blocks(DOCUMENT, "") if block.startswith("python -m")]
    languages, _ = code_blocks(DOCUMENT, "yaml")
    path = tmp_path_factory.mktemp("docs") / "languages.yaml"
    path.write_text(languages)
    words = command.strip().replace(":8300", ":0").split()[1:]
    process = subprocess.Popen(
        [sys.executable, *words, "--languages", str(path), "--first-uid", str(fresh_uid())],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("sandbox ready: http://127.0.0.1:"), line
    yield line.split()[2].rstrip(",")
    process.terminate()
    assert process.wait(20) == 0
    process.stdout.close()


def test_the_shown_client_prints_what_is_said(address: str) -> None:
    (snippet,) = code_blocks(DOCUMENT, "python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(snippet.replace("http://127.0.0.1:8300", address), DOCUMENT, "exec"), {})
    assert f"prints `{printed.getvalue().strip()}`" in (ROOT / DOCUMENT).read_text()


def test_the_shown_body_is_accepted(address: str) -> None:
    body, *_ = code_blocks(DOCUMENT, "json")
    with urllib.request.urlopen(f"{address}/v1/run", body.encode(), timeout=30) as response:
        assert json.load(response)["verdict"] == "accepted"


def test_the_shown_languages_run(address: str) -> None:
    client = SandboxClient(address)
    perl = client.run(Submission(language="perl", source='print "hi\\n";'))
    c_debug = client.run(Submission(language="c_debug", source="int main(){return 0;}"))
    assert (perl.verdict, perl.cases[0].output, c_debug.verdict) == ("accepted", "hi\n", "accepted")


def test_the_shown_config_and_prompt_load(tmp_path: Path) -> None:
    _, config = code_blocks(DOCUMENT, "yaml")
    _, row, _ = code_blocks(DOCUMENT, "json")
    (tmp_path / "run.yaml").write_text(config)
    (tmp_path / "code.jsonl").write_text(row)
    assert load_config(tmp_path / "run.yaml").sandbox.num_slots == 8
    (question,) = read_files([str(tmp_path / "code.jsonl")], Problems(mode="error"))
    assert question.task == "code"


def test_the_mixed_example_loads() -> None:
    config = load_config(ROOT / "examples/smollm2_mixed/quickstart.yaml")
    (path,) = config.prompts.files
    questions = read_files([str(ROOT / path)], Problems(mode="error"))
    assert {question.task for question in questions} == {"math", "code"}
