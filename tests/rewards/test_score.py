"""Groups are scored with real workers: math-verify, reasoning-gym, hostile text, time limits, deaths."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_k15.config import RewardConfig
from megatron_k15.errors import RewardError
from megatron_k15.rewards.score import Scorer
from megatron_k15.types import Group, Prompt
from tests.rewards.trajectories import prompt, trajectory

SECONDS = 60


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    """One worker for the tests that do not kill it."""
    with Scorer(RewardConfig(answer_extraction="boxed")) as shared:
        yield shared


def run(coroutine: Coroutine[Any, Any, Group]) -> Group:
    return asyncio.run(asyncio.wait_for(coroutine, SECONDS))


def verdicts(scorer: Scorer, problem: Prompt, *texts: str) -> list[bool]:
    group = run(scorer.score(problem, [trajectory(text) for text in texts], 0))
    return [score.correct for score in group.scores]


def workers() -> set[int]:
    """Process ids of this process's reward workers."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listing.splitlines()]
    return {int(row[0]) for row in rows if row[1] == str(os.getpid()) and "megatron_k15.rewards.judging" in row[2]}


def test_math_answers_in_other_forms_are_equal(scorer: Scorer) -> None:
    texts = [r"\boxed{0.5}", r"\boxed{\dfrac{2}{4}}", r"\boxed{\frac12}", r"\boxed{0.25}", r"\boxed{x}", "no box"]
    assert verdicts(scorer, prompt(r"\frac{1}{2}"), *texts) == [True, True, True, False, False, False]
    assert verdicts(scorer, prompt("1+x"), r"\boxed{x + 1}", r"\boxed{x - 1}") == [True, False]


def test_several_formulas_in_one_box_are_not_several_answers(scorer: Scorer) -> None:
    texts = [r"\boxed{1 $ $2$ $3$ $ \frac12}", r"\boxed{\frac13$ $\frac12}", "\\boxed{\\frac13\n\\frac12}"]
    assert verdicts(scorer, prompt(r"\frac12"), *texts) == [False, False, False]


def test_a_gym_verifier_judges_with_the_task_s_own_settings(scorer: Scorer) -> None:
    assert verdicts(scorer, prompt("19", "reasoning_gym:chain_sum"), r"\boxed{+019.0}", r"\boxed{18}") == [True, False]
    # puzzle24's verifier compares the numbers used with the settings; 10 is the largest by default.
    puzzle = {"entry": {}, "settings": {"min_value": 1, "max_value": 6}}
    with_eight = r"\boxed{8*3*1*1}"
    assert verdicts(scorer, prompt("4*6*1*1", "reasoning_gym:puzzle24"), with_eight) == [True]
    assert verdicts(scorer, prompt("4*6*1*1", "reasoning_gym:puzzle24", puzzle), with_eight) == [False]


def test_terms_sum_to_the_reward() -> None:
    config = RewardConfig(
        correct_reward=2.0,
        wrong_reward=-1.0,
        length_weight=0.5,
        length_warmup_iterations=3,
        format_pattern=r"^<think>.*</think>",
        format_penalty=0.25,
        repetition_penalty=0.125,
    )
    responses = [
        trajectory("<think>\n</think> 19", num_tokens=10),
        trajectory("19", num_tokens=20),
        trajectory("<think></think> 18", num_tokens=10),
        trajectory("18 18 18", num_tokens=14, finish_reason="repetition"),
    ]
    with Scorer(config) as scorer:
        early, late = (run(scorer.score(prompt("19"), responses, iteration)) for iteration in (2, 3))
    for group in (early, late):
        assert all(score.reward == sum(score.parts.values()) for score in group.scores)
        assert [score.parts["answer"] for score in group.scores] == [2.0, 2.0, -1.0, -1.0]
        assert [score.parts["format"] for score in group.scores] == [0.0, -0.25, 0.0, -0.25]
        assert [score.parts["repetition"] for score in group.scores] == [0.0, 0.0, 0.0, -0.125]
    assert [score.parts["length"] for score in early.scores] == [0.0] * 4
    # λ = 0.5, -0.5, 0.5, 0.1, times the weight; a wrong response keeps only what is negative.
    assert [score.parts["length"] for score in late.scores] == [0.25, -0.25, 0.0, 0.0]


def test_terms_that_are_off_are_not_listed(scorer: Scorer) -> None:
    group = run(scorer.score(prompt("19"), [trajectory(r"\boxed{19}")], 0))
    assert dict(group.scores[0].parts) == {"answer": 1.0}


HOSTILE = [
    r"\boxed{9**9**9**9}",
    r"\boxed{9^{9^{9^{9}}}}",
    r"\boxed{\sum_{n=1}^{99999999} n!}",
    r"\boxed{" + "{" * 2_000 + "}" * 2_000 + "}",
    r"\boxed{" * 100_000,
    r"\boxed{" + r"\frac{" * 500 + "1" + "}{2}" * 500 + "}",
    "\\boxed{\x00\x1b[2J}",
    r"\boxed{１２}",
    "a" * 1_000_000,
]


def test_hostile_text_is_wrong_in_bounded_time() -> None:
    others = workers()
    with Scorer(RewardConfig(timeout_seconds=0.5, answer_extraction="boxed", num_workers=2)) as scorer:
        started = time.monotonic()
        assert verdicts(scorer, prompt("x+7"), *HOSTILE) == [False] * len(HOSTILE)
        assert verdicts(scorer, prompt("x+7"), r"\boxed{7+x}") == [True], "the scorer must still judge"
        assert time.monotonic() - started < SECONDS
    assert workers() == others


def test_a_pattern_that_backtracks_for_ever_ends_at_the_limit_and_the_loop_runs_on() -> None:
    config = RewardConfig(format_pattern="^(a+)+$", format_penalty=1.0, timeout_seconds=1.0)

    async def score(scorer: Scorer) -> tuple[Group, float]:
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            while True:
                started = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - started)

        ticking = asyncio.ensure_future(tick())
        group = await scorer.score(prompt("19"), [trajectory("a" * 50 + "b 19")], 0)
        ticking.cancel()
        return group, longest

    with Scorer(config) as scorer:
        group, longest = asyncio.run(score(scorer))
        assert scorer.num_timeouts == 1
    assert dict(group.scores[0].parts) == {"answer": 1.0, "format": -1.0}
    assert longest < 0.9, "the event loop must not wait for a worker"


EVIL = {
    "countdown": "__import__('os').system('touch {marker}')",
    "n_queens": "__import__('os').system('touch {marker}')",
    "spiral_matrix": "open('{marker}', 'w')",
    "simple_integration": "open(chr(47)+chr(120))",
    "string_insertion": "[x.append(1) for x in [[]]]",
}


@pytest.mark.parametrize("task", EVIL)
def test_code_in_an_answer_is_not_run(scorer: Scorer, tmp_path: Path, task: str) -> None:
    marker = tmp_path / "was_here"
    metadata = {"entry": {"numbers": [1], "target": 1, "variable": "x", "integrand": "1", "valid_answers": []}}
    answer = EVIL[task].format(marker=marker)
    assert verdicts(scorer, prompt("x", f"reasoning_gym:{task}", metadata), rf"\boxed{{{answer}}}") == [False]
    assert not marker.exists()


def test_a_killed_worker_is_replaced_and_its_job_done_again() -> None:
    others = workers()
    nested = prompt(r"\sqrt{7+4\sqrt{3}}")

    async def score_and_kill(scorer: Scorer) -> Group:
        # A nested root: the quick rule leaves it to the worker.
        await scorer.score(nested, [trajectory(r"\boxed{\sqrt{3}+2}")], 0)
        (worker,) = workers() - others
        os.kill(worker, signal.SIGKILL)
        return await scorer.score(nested, [trajectory(r"\boxed{2+\sqrt{3}}")], 0)

    with Scorer(RewardConfig()) as scorer:
        assert run(score_and_kill(scorer)).scores[0].correct
        assert scorer.num_worker_deaths == 1


def test_an_unknown_task_is_refused(scorer: Scorer) -> None:
    with pytest.raises(RewardError, match="prompt p: task must be math, code or reasoning_gym:NAME, got 'chess'"):
        verdicts(scorer, prompt("1", "chess"), r"\boxed{1}")


def test_closing_ends_a_judgement_under_way() -> None:
    others = workers()

    async def score_and_close(scorer: Scorer) -> None:
        endless = asyncio.ensure_future(scorer.score(prompt("19"), [trajectory("a" * 50 + "b")], 0))
        while workers() == others:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        closing = threading.Thread(target=scorer.__exit__, args=(None, None, None))
        closing.start()
        await asyncio.wait([endless], timeout=SECONDS)
        closing.join(SECONDS)
        assert not closing.is_alive()

    asyncio.run(score_and_close(Scorer(RewardConfig(format_pattern="^(a+)+$", timeout_seconds=SECONDS))))
    assert workers() == others


def test_workers_die_with_a_killed_run(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio
        from megatron_k15.config import RewardConfig
        from megatron_k15.rewards.score import Scorer
        from tests.rewards.trajectories import prompt, trajectory

        async def main():
            with Scorer(RewardConfig(format_pattern="^(a+)+$", timeout_seconds=600, num_workers=2)) as scorer:
                first = await scorer.score(prompt("19"), [trajectory("aaa"), trajectory("aa")], 0)
                print("ready", flush=True)
                await scorer.score(prompt("19"), [trajectory("a" * 60 + "b"), trajectory("a")], 0)

        asyncio.run(main())
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    pids = [int(pid) for file in children for pid in file.read_text().split()]
    assert len(pids) == 2
    before = {pid: _cpu_seconds(pid) for pid in pids}
    # One is deep in a comparison that never looks at its socket: an idle one alone would see the other end close.
    _wait_for("a worker in its endless job", lambda: any(_cpu_seconds(pid) > before[pid] + 0.3 for pid in pids))
    process.kill()
    process.wait()
    process.stdout.close()
    try:
        _wait_for("the end of the workers", lambda: not any(_runs(pid) for pid in pids))
    finally:
        for pid in filter(_runs, pids):
            os.kill(pid, signal.SIGKILL)


def _wait_for(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"waited 20 s for {what}"
        time.sleep(0.05)


def _cpu_seconds(pid: int) -> float:
    user_ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11]
    return int(user_ticks) / os.sysconf("SC_CLK_TCK")


def _runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
