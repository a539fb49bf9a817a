"""A submission on a slot: compile once, run every case in a jail of its own, turn what was measured into verdicts.

The expected output and the judge never enter the program's jail: outputs are compared here, and a checker program gets
another jail after the program's is gone.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from megatron_k15.sandbox.comparison import is_equal
from megatron_k15.sandbox.errors import SandboxError
from megatron_k15.sandbox.jail import Bind
from megatron_k15.sandbox.languages import Language
from megatron_k15.sandbox.running import Measured
from megatron_k15.sandbox.slot import Slot
from megatron_k15.sandbox.values import Case, CaseReport, CompileReport, Limits, Report, Submission, Verdict

COMPILER_OUTPUT_BYTES = 4096
CHECKER_ACCEPTS, CHECKER_REJECTS = 0, 1
SIGNALS = 128
"""Exit codes above this one: ended by a signal."""
CHECKER_FILES = ("input", "output", "expected")


class CheckerError(SandboxError):
    """The submitter's checker does not compile, or said neither right nor wrong: there is no verdict."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """Compiled, and ready to be shown to jails."""

    language: Language
    bind: Bind
    compile: CompileReport | None


def judge(slot: Slot, submission: Submission, languages: dict[str, Language]) -> Report:
    """Raises:
    JailError: the sandbox failed; says nothing about the submission.
    CheckerError: the submission's checker is no checker.
    """
    with ExitStack() as stack:
        program = stack.enter_context(
            prepared(slot, languages[submission.language], submission.source, submission.limits, "program")
        )
        if program.compile and not program.compile.accepted:
            return Report(verdict="compile_error", failing_case=None, cases=(), compile=program.compile)
        judged = stack.enter_context(_checked_by(slot, submission, languages))
        reports: list[CaseReport] = []
        for case in submission.cases:
            reports.append(_run_case(slot, submission, program, judged, case))
            if reports[-1].verdict != "accepted" and submission.stop_at_first_failure:
                break
    failing = next((index for index, report in enumerate(reports) if report.verdict != "accepted"), None)
    verdict: Verdict = "accepted" if failing is None else reports[failing].verdict
    return Report(verdict=verdict, failing_case=failing, cases=tuple(reports), compile=program.compile)


@contextmanager
def prepared(slot: Slot, language: Language, source: str, limits: Limits, name: str) -> Iterator[Program]:
    """Write the source into a directory of its own and compile it there, in a jail like any other."""
    room = language.compile_limits if language.compile else limits
    # The source must fit, whatever the disk limit for the program itself.
    content = source.encode()
    room = replace(room, disk_bytes=room.disk_bytes + len(content))
    with slot.program_directory(name, room) as directory:
        directory.write(language.source_name, content)
        report = None
        if language.compile:
            measured = slot.run(
                language.compile,
                language=language,
                limits=language.compile_limits,
                binds=(directory.bind("/box", writable=True),),
            )
            report = _compile_report(measured)
        yield Program(language=language, bind=directory.bind("/box"), compile=report)


def _compile_report(measured: Measured) -> CompileReport:
    messages = measured.stderr + measured.stdout
    if measured.oom_killed:
        messages = b"[memory limit of the compiler]\n" + messages
    elif measured.stopped_for:
        messages = f"[{measured.stopped_for} limit of the compiler]\n".encode() + messages
    return CompileReport(
        accepted=measured.exit_code == 0 and not measured.oom_killed,
        cpu_seconds=measured.cpu_seconds,
        wall_seconds=measured.wall_seconds,
        peak_memory_bytes=measured.peak_memory_bytes,
        messages=_text(messages, COMPILER_OUTPUT_BYTES),
    )


def _run_case(slot: Slot, submission: Submission, program: Program, checker: Program | None, case: Case) -> CaseReport:
    measured = slot.run(
        program.language.run,
        language=program.language,
        limits=submission.limits,
        binds=(program.bind,),
        stdin=case.input.encode(),
    )
    verdict = verdict_of(measured, submission.limits)
    if verdict == "accepted" and case.expected is not None and not _is_right(slot, submission, checker, case, measured):
        verdict = "wrong_answer"
    return CaseReport(
        verdict=verdict,
        cpu_seconds=round(measured.cpu_seconds, 6),
        wall_seconds=round(measured.wall_seconds, 6),
        peak_memory_bytes=measured.peak_memory_bytes,
        exit_code=measured.exit_code,
        output=_text(measured.stdout, submission.returned_output_bytes),
        stderr=_text(measured.stderr, submission.returned_output_bytes),
        output_bytes=len(measured.stdout),
    )


def verdict_of(measured: Measured, limits: Limits) -> Verdict:
    """From measurement alone. An exit code can only take `accepted` away from a program, never give it."""
    if measured.oom_killed:
        return "memory_limit"
    if measured.stopped_for == "output":
        return "output_limit"
    if measured.stopped_for or measured.cpu_seconds > limits.cpu_seconds:
        return "time_limit"
    return "accepted" if measured.exit_code == 0 else "runtime_error"


@contextmanager
def _checked_by(slot: Slot, submission: Submission, languages: dict[str, Language]) -> Iterator[Program | None]:
    checker = submission.checker
    if checker is None:
        yield None
        return
    with prepared(slot, languages[checker.language], checker.source, Limits(), "checker") as program:
        if program.compile and not program.compile.accepted:
            raise CheckerError(f"the checker must compile; the compiler said: {program.compile.messages}")
        yield program


def _is_right(slot: Slot, submission: Submission, checker: Program | None, case: Case, measured: Measured) -> bool:
    assert case.expected is not None
    expected = case.expected.encode()
    if checker is None:
        return is_equal(measured.stdout, expected, submission.comparison)
    contents = (case.input.encode(), measured.stdout, expected)
    room = Limits(disk_bytes=Limits().disk_bytes + sum(map(len, contents)))
    with slot.program_directory("case", room) as directory:
        for name, content in zip(CHECKER_FILES, contents, strict=True):
            directory.write(name, content)
        said = slot.run(
            (*checker.language.run, *(f"/case/{name}" for name in CHECKER_FILES)),
            language=checker.language,
            limits=Limits(cpu_seconds=10.0, wall_seconds=30.0),
            binds=(checker.bind, directory.bind("/case")),
        )
    if said.oom_killed or said.stopped_for or said.exit_code is None or said.exit_code > SIGNALS:
        # A hostile output may exhaust a checker. That is not right, and it is no reason to judge no other.
        return False
    if said.exit_code not in (CHECKER_ACCEPTS, CHECKER_REJECTS):
        raise CheckerError(
            f"a checker must exit with 0 (right) or 1 (wrong); it ended with code {said.exit_code}: "
            f"{_text(said.stderr, 500)}"
        )
    return said.exit_code == CHECKER_ACCEPTS


def _text(data: bytes, limit_bytes: int) -> str:
    return data[:limit_bytes].decode(errors="replace")
