"""The command and the generator of docs/test_cases.md work."""

import json
import shlex
from pathlib import Path

import pytest

from tests.documents import ROOT, code_blocks
from tests.sandbox.running_service import LACKS
from tests.test_cases.known_problems import EMPTY_ALLOWED, problem
from tools.generate_test_cases import main


@pytest.mark.skipif(bool(LACKS), reason=LACKS)
def test_the_shown_command_keeps_a_problem_with_the_shown_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = code_blocks("docs/test_cases.md", "bash")
    (generator,) = code_blocks("docs/test_cases.md", "python")
    monkeypatch.chdir(tmp_path)
    row = problem("sum", EMPTY_ALLOWED, num_right=9, generator=generator)
    Path("problems.jsonl").write_text(json.dumps(row) + "\n")
    python, tool, *arguments = shlex.split(command)
    assert (python, (ROOT / tool).exists()) == ("python", True)
    # Few cases, for time; the rest is as shown.
    assert main([*arguments, "--num-cases", "4", "--min-valid-cases", "3"]) == 0
    assert "sum: kept: 4 cases" in capsys.readouterr().out
    assert Path("cases/problems.jsonl").read_text().count("\n") == 1
