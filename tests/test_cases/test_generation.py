"""Real problems through the whole tool, in a real sandbox: what is kept, what is dropped, and why."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from megatron_k15.config import EvaluationConfig, PromptConfig
from megatron_k15.prompts.prompt_set import load_prompt_sets
from megatron_k15.sandbox.local_service import LocalService
from tests.prompts.tokenizer import byte_tokenizer
from tests.sandbox.running_service import LACKS, fresh_uid
from tests.test_cases.known_problems import EMPTY_ALLOWED, GENERATOR, RANDOM, SLOW, TREE_PROBLEM, problem
from tools.generate_test_cases import PACKAGES, main

pytestmark = pytest.mark.skipif(bool(LACKS), reason=LACKS)

FEW = ["--num-cases", "6", "--min-valid-cases", "5"]
"""Six cases instead of fifty; the other thresholds are the report's."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    options = ["--first-uid", str(fresh_uid()), *(word for package in PACKAGES for word in ("--package", package))]
    with LocalService(options) as local:
        yield local.ready().address


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def generate(sandbox: str, problems: Path, output: Path, *more: str) -> int:
    arguments = ["--problems", str(problems), "--output", str(output), "--sandbox", sandbox]
    return main([*arguments, *FEW, *more])


def test_the_funnel_keeps_what_can_be_trusted(sandbox: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems = write(
        tmp_path / "problems.jsonl",
        problem("one wrong of ten", EMPTY_ALLOWED, num_right=9),
        TREE_PROBLEM,
        problem("a wrong and a slow one", EMPTY_ALLOWED, SLOW, num_right=8),
        problem("four by chance", RANDOM, RANDOM, RANDOM, RANDOM, num_right=6),
        problem("five submissions", num_right=5),
        problem("several right", EMPTY_ALLOWED, num_right=9, statement="If there are multiple answers, print any."),
        problem("generator crashes", EMPTY_ALLOWED, num_right=9, generator="print(1 // 0)"),
        problem("generator repeats itself", EMPTY_ALLOWED, num_right=9, generator="print(1); print(5)"),
        problem("no generator", EMPTY_ALLOWED, num_right=9, generator=None),
        problem("does not compile", num_right=9, submissions=[{"language": "c", "source": "?"}] * 10),
    )
    assert generate(sandbox, problems, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    reasons = {row["id"]: row["reason"] for row in rows(tmp_path / "out" / "dropped.jsonl")}
    assert reasons == {
        "a wrong and a slow one": "submissions_disagree",
        "four by chance": "too_few_valid_cases",
        "five submissions": "too_few_submissions",
        "several right": "special_judge",
        "generator crashes": "generator_fails",
        "generator repeats itself": "generator_fails",
        "no generator": "no_generator",
        "does not compile": "too_few_valid_cases",
    }
    assert [row["id"] for row in rows(tmp_path / "out" / "problems.jsonl")] == ["one wrong of ten", "tree"]
    results = {row["id"]: row for row in rows(tmp_path / "out" / "results.jsonl")}
    assert results["one wrong of ten"]["num_passing"] == results["tree"]["num_passing"] == 9
    assert results["a wrong and a slow one"]["num_passing"] == 8
    assert "ZeroDivisionError" in results["generator crashes"]["detail"]
    table = [line.split() for line in printed.splitlines()]
    for stage, left in (("without special judge", 9), ("enough submissions", 8), ("generator that runs", 5),
                        ("enough valid cases", 3), ("kept", 2)):  # fmt: skip
        assert any(stage in " ".join(words) and str(left) in words for words in table), (stage, left, printed)


def test_the_cases_are_right_and_train(sandbox: str, tmp_path: Path) -> None:
    """Against a brute force of our own; and the file is one that `prompts.files` takes. Each time it is the same."""
    problems = write(tmp_path / "problems.jsonl", problem("sum", EMPTY_ALLOWED, num_right=9))
    assert generate(sandbox, problems, tmp_path / "out") == 0
    assert generate(sandbox, problems, tmp_path / "again") == 0
    assert (tmp_path / "again/problems.jsonl").read_text() == (tmp_path / "out/problems.jsonl").read_text()
    (kept,) = rows(tmp_path / "out" / "problems.jsonl")
    cases = kept["metadata"]["cases"]
    assert len(cases) == 6
    for case in cases:
        numbers = list(map(int, case["input"].split()[1:]))
        sums = [sum(numbers[i:j]) for i in range(len(numbers)) for j in range(i + 1, len(numbers) + 1)]
        assert int(case["expected"]) == max(sums)
    config = PromptConfig(files=(str(tmp_path / "out" / "problems.jsonl"),))
    sets = load_prompt_sets(config, EvaluationConfig(), tokenizer=byte_tokenizer(), chat_template=False, seed=0)
    assert sets.train[0].task == "code"


def test_a_run_that_was_cut_off_goes_on(sandbox: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Known results are taken, a half-written one is not, and a changed problem is done again."""
    first, second = problem("first", EMPTY_ALLOWED, num_right=9), problem("second", num_right=5)
    output = tmp_path / "out"
    assert generate(sandbox, write(tmp_path / "a.jsonl", first, second), output) == 0
    results = output / "results.jsonl"
    whole = results.read_text()
    generate(sandbox, tmp_path / "a.jsonl", output)
    assert "2 of 2 problems were done before" in capsys.readouterr().out
    assert results.read_text() == whole
    results.write_text(whole[:-30])
    assert generate(sandbox, tmp_path / "a.jsonl", output) == 0
    assert "1 of 2 problems were done before" in capsys.readouterr().out
    assert sorted(results.read_text().splitlines()) == sorted(whole.splitlines())
    second["statement"] += " Print any of them."
    assert generate(sandbox, write(tmp_path / "a.jsonl", first, second), output) == 0
    assert "second: special judge" in capsys.readouterr().out


@contextmanager
def endpoint(answers: list[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Speaks the protocol of OpenAI's chat completions; an answer of "" is an error 500."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = answers[len(asked) - 1]
            body = json.dumps({"choices": [{"message": {"role": "assistant", "content": answer}}]}).encode()
            self.send_response(200 if answer else 500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_generators_come_from_an_endpoint(sandbox: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An endpoint that fails leaves the problem open: nothing is recorded of it, and a second run does it."""
    problems = write(tmp_path / "a.jsonl", problem("sum", EMPTY_ALLOWED, num_right=9, generator=None))
    with endpoint(["", "I cannot.", f"Here it is:\n```python\n{GENERATOR}\n```"]) as (url, asked):
        options = ("--endpoint", url, "--model", "writer")
        assert generate(sandbox, problems, tmp_path / "out", *options) == 1
        assert "1 problems are not done; run the same command again" in capsys.readouterr().err
        assert generate(sandbox, problems, tmp_path / "refused", *options) == 0
        assert "the answer of writer holds no program" in capsys.readouterr().out
        assert generate(sandbox, problems, tmp_path / "out", *options) == 0
    assert asked[0]["model"] == "writer"
    assert "largest sum of a non-empty" in asked[0]["messages"][0]["content"]
    (kept,) = rows(tmp_path / "out" / "problems.jsonl")
    assert len(kept["metadata"]["cases"]) == 6
    (result,) = rows(tmp_path / "out" / "results.jsonl")
    assert result["generator"].strip() == GENERATOR.strip()


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("{", "a.jsonl:2"),
        ('{"id": "x", "statement": "s"}', "`submissions` is missing"),
        ('{"id": "", "statement": "s", "submissions": []}', "`id` must be text; got ''"),
        ('{"id": "good", "statement": "s", "submissions": []}', "`id` must be unique; 'good' came before"),
        ('{"id": "x", "statement": "s", "submissions": [], "limits": {"cpu": 1}}', "cpu"),
    ],
)
def test_bad_problems_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, rule: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "good", "statement": "s", "submissions": []}\n' + line + "\n")
    assert main(["--problems", str(path), "--output", str(tmp_path / "out"), "--sandbox", "unix:/nowhere"]) == 1
    assert rule in capsys.readouterr().err
