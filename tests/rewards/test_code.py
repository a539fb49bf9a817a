"""Code prompts: the program in a response, its verdict, and a sandbox that is killed or stopped while it judges."""

import asyncio
import random
import signal
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from megatron_k15.config import RewardConfig, SandboxConfig
from megatron_k15.errors import RewardError
from megatron_k15.rewards.score import Scorer
from megatron_k15.sandbox.fenced_program import TAIL, extract_program
from megatron_k15.types import Group, Prompt
from tests.rewards.trajectories import prompt, trajectory
from tests.sandbox.running_service import LACKS

DOUBLE = prompt(
    "", task="code", metadata={"cases": [{"input": "4\n", "expected": "8\n"}, {"input": "-3\n", "expected": "-6"}]}
)
RIGHT = "Twice the number.\n```python\nprint(2 * int(input()))\n```\n"
WRONG = "```python\nprint(8)\n```"

needs_root = pytest.mark.skipif(bool(LACKS), reason=LACKS)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (RIGHT, "print(2 * int(input()))\n"),
        ("```\na\n```\nor\n```py\nb\n```", "b\n"),
        ("```\na\n```\n```\nunfinished", "a\n"),
        ("```\n```", None),
        ("no program", None),
        ("inline ```x``` only", None),
        ("```python\nprint('```')\n```", "print('```')\n"),
        ("```\n" + "x" * 50 + "\n```\n" + "y" * TAIL, None),
        ("```\nlost\n" + "y" * TAIL + "\n```\n```\nkept\n```", "kept\n"),
        ("```c\r\nint x;\r\n```", "int x;\r\n"),
    ],
)
def test_the_last_closed_block_is_the_program(text: str, program: str | None) -> None:
    assert extract_program(text) == program


@pytest.mark.parametrize("unit", ["```\n", "`", "```x", "\n", " ", "\x00"])
def test_a_megabyte_of_anything_is_quick(unit: str) -> None:
    """A search that is quadratic takes minutes of it; a busy machine has been seen to take half a second."""
    started = time.process_time()
    extract_program(unit * (1_000_000 // len(unit)))
    assert time.process_time() - started < 10


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    with Scorer(RewardConfig(), sandbox=SandboxConfig(num_slots=2)) as scorer:
        yield scorer


def correct(scorer: Scorer, problem: Prompt, *responses: str) -> list[bool]:
    group = asyncio.run(scorer.score(problem, [trajectory(response) for response in responses], 0))
    return [score.correct for score in group.scores]


@needs_root
def test_a_response_is_right_when_its_program_passes_every_case(scorer: Scorer) -> None:
    endless = "```python\nwhile True: pass\n```"
    crash = "```python\nprint(8)\nraise SystemExit(1)\n```"
    assert correct(scorer, DOUBLE, RIGHT, WRONG, "8", crash, RIGHT) == [True, False, False, False, True]
    quick = prompt("", task="code", metadata={**DOUBLE.metadata, "limits": {"cpu_seconds": 0.2}})
    assert correct(scorer, quick, endless, RIGHT) == [False, True]


@needs_root
def test_other_languages_and_checkers_come_from_the_prompt(scorer: Scorer) -> None:
    checker = "import sys\nsys.exit(int(open(sys.argv[2]).read()) % int(open(sys.argv[3]).read()))"
    metadata = {
        "language": "bash",
        "cases": [{"input": "5", "expected": "7"}],
        "checker": {"language": "python", "source": checker},
    }
    problem = prompt("", task="code", metadata=metadata)
    assert correct(scorer, problem, "```bash\necho 21\n```", "```bash\necho 22\n```") == [True, False]


@needs_root
def test_a_function_is_called_with_the_cases_arguments(scorer: Scorer) -> None:
    """As in HumanEval; what is expected stays outside."""
    cases = [
        {"input": '[[3, 1, 2], "x"]', "expected": '{"n": 3, "who": "x"}'},
        {"input": '[[], "y"]', "expected": "null"},
    ]
    problem = prompt("", task="code", metadata={"entry_point": "count", "cases": cases})
    right = "```python\ndef count(values, who):\n    return {'who': who, 'n': len(values)} if values else None\n```"
    forged = '```python\nprint(\'{"n": 3, "who": "x"}\')\n```'
    missing = "```python\ndef other(values, who):\n    return None\n```"
    other = right.replace("len(values)", "4")
    assert correct(scorer, problem, right, other, forged, missing) == [True, False, False, False]


@pytest.mark.parametrize(
    ("metadata", "rule"),
    [
        ({**DOUBLE.metadata, "entry_point": "a; b"}, "`entry_point` must be the name of a function"),
        ({**DOUBLE.metadata, "entry_point": "f", "language": "c"}, "in python; got 'f' in c"),
        ({}, "`cases` must be a non-empty list"),
        ({"cases": [{"input": "1"}]}, "every one of `cases` must have `expected`"),
        ({"cases": [{"input": 1, "expected": "1"}]}, r"`cases.input` must be text; got 1"),
        ({"cases": [{"in": "1"}]}, "`cases` must have only input, expected"),
        ({**DOUBLE.metadata, "tests": 1}, "must have no other keys than"),
        ({**DOUBLE.metadata, "comparison": "fuzzy"}, "`comparison` must be tokens or exact; got 'fuzzy'"),
        ({**DOUBLE.metadata, "limits": {"cpu_seconds": 0}}, "limits.cpu_seconds must be from 0.01"),
        ({**DOUBLE.metadata, "checker": {"language": "c"}}, "source"),
    ],
)
def test_metadata_that_is_no_problem_is_refused(scorer: Scorer, metadata: dict[str, object], rule: str) -> None:
    with pytest.raises(RewardError, match=f"prompt p: the metadata of a code prompt .*{rule}"):
        correct(scorer, prompt("", task="code", metadata=metadata), RIGHT)


@needs_root
def test_an_unknown_language_stops_the_run(scorer: Scorer) -> None:
    with pytest.raises(RewardError, match=r"prompt p: .*language must be one of bash, c, cpp, python; got 'cobol'"):
        correct(scorer, prompt("", task="code", metadata={**DOUBLE.metadata, "language": "cobol"}), RIGHT)


@needs_root
def test_what_a_run_needs_is_looked_for_before_it_starts(scorer: Scorer) -> None:
    scorer.prepare([prompt("19"), DOUBLE])
    cobol = prompt("", task="code", metadata={**DOUBLE.metadata, "language": "cobol"})
    with pytest.raises(RewardError, match=r"prompt p: .*\(bash, c, cpp, python\); got 'cobol'"):
        scorer.prepare([DOUBLE, cobol])
    with Scorer(RewardConfig(), sandbox=SandboxConfig(address="http://127.0.0.1:9")) as unreachable:
        unreachable.prepare([prompt("19")])
        with pytest.raises(RewardError, match=r"code prompts need a sandbox .*http://127.0.0.1:9 must answer"):
            unreachable.prepare([DOUBLE])


def test_a_sandbox_that_is_not_there_stops_the_run_and_makes_no_reward_up() -> None:
    config = SandboxConfig(address="http://127.0.0.1:9", patience_seconds=0.5)
    with (
        Scorer(RewardConfig(), sandbox=config) as scorer,
        pytest.raises(RewardError, match=r"within sandbox.patience_seconds \(0.5 s\); .*http://127.0.0.1:9"),
    ):
        correct(scorer, DOUBLE, RIGHT)


@needs_root
def test_a_sandbox_killed_and_stopped_while_it_judges_costs_no_reward() -> None:
    """40 groups of right and wrong programs, while the sandbox's two processes are killed and stopped."""
    config = SandboxConfig(num_slots=2, hang_timeout_seconds=1.0, max_restarts=1000, max_concurrent_requests=8)
    numbers = range(40)
    done = threading.Event()

    def trouble(scorer: Scorer) -> None:
        generator = random.Random(0)
        for action in ("kill server", "stop server", "kill guardian", "pause server", "kill server"):
            time.sleep(generator.uniform(0.3, 0.8))
            server = _server(scorer)
            if done.is_set() or server is None:
                return
            match action:
                case "kill server":
                    server.kill()
                case "kill guardian":
                    server.parent().kill()  # type: ignore[union-attr]
                case "stop server":
                    server.suspend()  # for ever: it must be found and replaced
                case "pause server":
                    server.suspend()
                    time.sleep(0.3)
                    server.send_signal(signal.SIGCONT)

    async def judge(scorer: Scorer) -> list[Group]:
        groups = (
            scorer.score(_adds(n), [trajectory(f"```\nimport time; time.sleep(0.05)\nprint(int(input()) + {d})\n```")
                                    for d in (n, n + 1)], 0)
            for n in numbers
        )  # fmt: skip
        return await asyncio.gather(*groups)

    with Scorer(RewardConfig(), sandbox=config) as scorer:
        assert correct(scorer, DOUBLE, RIGHT) == [True]
        troubling = threading.Thread(target=trouble, args=(scorer,))
        troubling.start()
        groups = asyncio.run(judge(scorer))
        done.set()
        troubling.join()
        assert [[score.correct for score in group.scores] for group in groups] == [[True, False]] * len(numbers)
        assert scorer.num_sandbox_restarts >= 1
        assert scorer._code.num_repeated >= 1


def _adds(number: int) -> Prompt:
    cases = [{"input": f"{i}", "expected": f"{i + number}"} for i in (0, 10)]
    return prompt("", task="code", metadata={"cases": cases})


def _server(scorer: Scorer) -> psutil.Process | None:
    local = scorer._code._local
    assert local is not None
    for _ in range(100):
        try:
            (server,) = psutil.Process(local.pid).children()
        except (psutil.NoSuchProcess, ValueError):
            time.sleep(0.1)
        else:
            return server
    return None
