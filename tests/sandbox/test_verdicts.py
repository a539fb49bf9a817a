"""Programs, cases and comparisons, through HTTP, on both backends: verdicts and what was measured."""

from dataclasses import replace

import pytest

from megatron_k15.sandbox.errors import SandboxError
from megatron_k15.sandbox.values import Case, Checker, Limits, Report
from tests.sandbox.running_service import SHORT, RunningService

DOUBLE = {
    "python": "print(2 * int(input()))",
    "c": '#include <stdio.h>\nint main(){int a;scanf("%d",&a);printf("%d\\n",2*a);}',
    "cpp": "#include <iostream>\nint main(){int a;std::cin>>a;std::cout<<2*a<<std::endl;}",
    "bash": "read a; echo $((2 * a))",
}
THREE = (Case(input="4\n", expected="8\n"), Case(input="-1\n", expected=" -2 "), Case(input="0", expected="0"))


@pytest.mark.parametrize("language", DOUBLE)
def test_every_language_is_accepted_and_found_wrong(service: RunningService, language: str) -> None:
    report = service.run(language, DOUBLE[language], *THREE)
    assert (report.verdict, report.failing_case) == ("accepted", None)
    assert [case.output for case in report.cases] == ["8\n", "-2\n", "0\n"]
    wrong = service.run(language, DOUBLE[language], THREE[0], Case(input="3", expected="7"), THREE[1])
    assert (wrong.verdict, wrong.failing_case, len(wrong.cases)) == ("wrong_answer", 1, 2)


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_a_program_is_compiled_once_and_its_errors_are_shown(service: RunningService, language: str) -> None:
    report = service.run(language, DOUBLE[language], *THREE)
    assert report.compile is not None
    assert report.compile.accepted
    assert report.compile.cpu_seconds > 5 * report.cases[0].cpu_seconds
    broken = service.run(language, "int main(){ return nothing; }")
    assert (broken.verdict, broken.cases) == ("compile_error", ())
    assert broken.compile is not None
    assert "nothing" in broken.compile.messages


def test_all_cases_are_run_when_asked_for(service: RunningService) -> None:
    cases = (Case(input="1", expected="3"), THREE[0], Case(input="x", expected="1"))
    report = service.run("python", DOUBLE["python"], *cases, stop_at_first_failure=False)
    assert [case.verdict for case in report.cases] == ["wrong_answer", "accepted", "runtime_error"]
    assert (report.verdict, report.failing_case) == ("wrong_answer", 0)


@pytest.mark.parametrize(
    ("printed", "expected", "tokens", "exact"),
    [
        ("1 2\n", "1 2\n", True, True),
        ("1\n2", "1 2\n", True, False),
        ("1  2 \n\n", "1 2", True, False),
        ("12", "1 2", False, False),
        ("1 2 3", "1 2", False, False),
        ("", "", True, True),
        ("1.0", "1", False, False),
        ("ä", "ä", True, True),
    ],
)
def test_comparisons(
    bubblewrap_service: RunningService, printed: str, expected: str, tokens: bool, exact: bool
) -> None:
    source = f"import os\nos.write(1, {printed.encode()!r})"
    for comparison, right in (("tokens", tokens), ("exact", exact)):
        report = bubblewrap_service.run("python", source, Case(expected=expected), comparison=comparison)
        assert report.verdict == ("accepted" if right else "wrong_answer"), comparison


CHECKER = """
import sys
given, output, expected = (open(name).read() for name in sys.argv[1:])
if "fail" in output: raise SystemExit(7)
if "exhaust" in output: x = b"1" * (1 << 30)
if "abort" in output: __import__("os").abort()
sys.exit(0 if sorted(output.split()) == sorted(expected.split()) and given == "any order" else 1)
"""


def test_a_checker_decides_where_several_outputs_are_right(service: RunningService) -> None:
    checker = Checker(language="python", source=CHECKER)
    case = Case(input="any order", expected="1 2 3")
    right = service.run("bash", "echo 3; echo 1 2", case, checker=checker)
    wrong = service.run("bash", "echo 3; echo 1", case, checker=checker)
    assert (right.verdict, wrong.verdict) == ("accepted", "wrong_answer")
    # An output that the checker cannot bear is not right; it must not stop the judging of others either.
    for output in ("exhaust", "abort"):
        assert service.run("bash", f"echo {output}", case, checker=checker).verdict == "wrong_answer"
    with pytest.raises(SandboxError, match=r"must exit with 0 \(right\) or 1 \(wrong\); it ended with code 7"):
        service.run("bash", "echo fail", case, checker=checker)
    with pytest.raises(SandboxError, match="the checker must compile"):
        service.run("bash", "echo", case, checker=Checker(language="c", source="x"))


def test_measured_use_is_what_was_used(service: RunningService) -> None:
    burn = "import time\nb = b'1' * (80 << 20)\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    (case,) = service.run("python", burn).cases
    assert 0.3 <= case.cpu_seconds < 0.6
    assert case.wall_seconds >= 0.3
    assert 80 << 20 <= case.peak_memory_bytes < 110 << 20
    (idle,) = service.run("python", "import time\ntime.sleep(0.3)").cases
    assert idle.cpu_seconds < 0.2 < idle.wall_seconds
    # A run's peak is its own, not that of the run before.
    assert idle.peak_memory_bytes < 20 << 20


def test_limits_are_the_requests_own(service: RunningService) -> None:
    def verdict(language: str, source: str, **limits: float) -> str:
        report: Report = service.run(language, source, limits=replace(SHORT, **limits))
        return report.verdict

    children = "import os, time\nfor _ in range(4):\n    if os.fork() == 0: time.sleep(0.2); os._exit(0)\n"
    assert verdict("python", children, max_processes=5) == "accepted"
    assert verdict("python", children, max_processes=4) == "runtime_error"
    assert verdict("bash", "head -c 2000000 /dev/zero > f", disk_bytes=4 << 20) == "accepted"
    assert verdict("bash", "head -c 2000000 /dev/zero > f", disk_bytes=1 << 20) == "runtime_error"
    assert verdict("bash", "touch $(seq 30)", disk_files=31) == "accepted"
    assert verdict("bash", "touch $(seq 30)", disk_files=29) == "runtime_error"
    assert verdict("bash", "head -c 1000 /dev/zero", output_bytes=1000) == "accepted"
    assert verdict("bash", "head -c 1001 /dev/zero", output_bytes=1000) == "output_limit"
    assert verdict("python", "x = b'1' * (60 << 20)", memory_bytes=90 << 20) == "accepted"
    assert verdict("python", "x = b'1' * (60 << 20)", memory_bytes=50 << 20) == "memory_limit"
    assert verdict("bash", "sleep 0.4", wall_seconds=0.2) == "time_limit"


def test_output_comes_back_cut(service: RunningService) -> None:
    report = service.run("bash", "head -c 5000 /dev/zero | tr '\\0' x; echo error >&2", returned_output_bytes=10)
    (case,) = report.cases
    assert (case.output, case.output_bytes, case.stderr) == ("x" * 10, 5000, "error\n")


def test_large_inputs_and_outputs_pass_through(service: RunningService) -> None:
    text = "0123456789abcde\n" * (1 << 18)
    report = service.run(
        "bash",
        "cat",
        Case(input=text, expected=text),
        limits=replace(SHORT, output_bytes=len(text)),
        comparison="exact",
    )
    assert report.verdict == "accepted"


def test_an_allowance_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"limits.cpu_seconds must be from 0.01 to 600, got 0"):
        Limits(cpu_seconds=0)


def test_ordinary_programs_find_what_they_need(service: RunningService) -> None:
    """Threads, processes, pipes, files, shared memory and a database, with nothing but the standard library."""
    source = r"""
import asyncio, concurrent.futures, multiprocessing, sqlite3, subprocess, tempfile, threading

def square(n): return n * n

if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool: print(sum(pool.map(square, range(10))))
    with concurrent.futures.ThreadPoolExecutor(4) as threads: print(sum(threads.map(square, range(10))))
    print(subprocess.run(["sort", "-n"], input="10\n9\n", capture_output=True, text=True).stdout.split())
    with tempfile.NamedTemporaryFile("w+") as file: file.write("x"); file.seek(0); print(file.read())
    print(sqlite3.connect(":memory:").execute("select 6 * 7").fetchone()[0])
    async def main(): return (await asyncio.gather(*(asyncio.sleep(0.01, n) for n in range(5))))
    print(sum(asyncio.run(main())))
    event = threading.Event(); threading.Timer(0.01, event.set).start(); print(event.wait(1))
    import resource; print(resource.getrlimit(resource.RLIMIT_CORE)[0])
"""
    assert service.output("python", source).splitlines() == ["285", "285", "['9', '10']", "x", "42", "10", "True", "1"]


def test_half_a_surrogate_pair_in_a_source_is_a_wrong_program_and_no_more(bubblewrap_service: RunningService) -> None:
    report = bubblewrap_service.run("python", "print('\ud800')", Case(expected="x"))
    assert report.verdict == "wrong_answer"


def test_a_language_without_its_compiler_is_refused(bubblewrap_service: RunningService) -> None:
    with pytest.raises(SandboxError, match=r"language must be one of .*; got 'absent'"):
        bubblewrap_service.run("absent", "")
