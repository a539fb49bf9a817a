"""Hostile programs get the verdict they deserve, and the host is afterwards what it was before.

Each file below `attacks/` is one program. Where the table does not say otherwise it must end well and print nothing: it
prints a line for everything that it could find, reach or change and should not have, and is then `wrong_answer`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from megatron_k15.sandbox.values import Case, Limits, Verdict
from tests.sandbox.running_service import SHORT, RunningService

ATTACKS = Path(__file__).with_name("attacks")
LANGUAGES = {".py": "python", ".c": "c_short", ".cpp": "cpp_short", ".sh": "bash"}
FILES = sorted(path for path in ATTACKS.glob("*/*") if path.suffix in LANGUAGES)


@dataclass(frozen=True, kw_only=True)
class Expected:
    verdicts: tuple[Verdict, ...]
    case: Case
    limits: Limits


def expect(*verdicts: Verdict, case: Case | None = None, limits: Limits = SHORT) -> Expected:
    """Any of `verdicts`; none given means `accepted`."""
    return Expected(verdicts=verdicts or ("accepted",), case=case or Case(expected=""), limits=limits)


EXPECTED = {
    "memory/memory.py": expect("memory_limit"),
    "memory/memory_in_children.py": expect("memory_limit"),
    "memory/memory_without_a_name.py": expect(
        "memory_limit", "runtime_error", limits=replace(SHORT, disk_bytes=1073741824)
    ),
    "memory/memory_in_shared_maps.py": expect("memory_limit"),
    "memory/memory_in_pipes.py": expect("memory_limit", "runtime_error"),
    "memory/an_allocator_that_hides_its_failure.c": expect("memory_limit"),
    "processes/fork_bomb.c": expect("time_limit", "memory_limit"),
    "processes/fork_bomb_in_bash.sh": expect("time_limit", "runtime_error", "output_limit", "accepted", "wrong_answer"),
    "processes/thread_bomb.py": expect("runtime_error", "time_limit"),
    "processes/vfork_and_exec_for_ever.c": expect("time_limit", "memory_limit"),
    "processes/signals_to_all.py": expect("accepted", "runtime_error"),
    "processes/stops_itself.py": expect("time_limit", limits=replace(SHORT, wall_seconds=0.5)),
    "processes/deaf_to_signals.py": expect("time_limit", limits=replace(SHORT, cpu_seconds=0.2)),
    "processes/sleeps_for_ever.py": expect("time_limit", limits=replace(SHORT, wall_seconds=0.3)),
    "processes/burns_time_in_children.py": expect("time_limit", limits=replace(SHORT, cpu_seconds=0.3)),
    "processes/burns_time_in_children_that_end.sh": expect("time_limit", limits=replace(SHORT, cpu_seconds=0.3)),
    "processes/recursion.c": expect("runtime_error", "memory_limit"),
    "output/output.sh": expect("output_limit"),
    "output/output_in_one_write.py": expect("output_limit"),
    "output/errors.sh": expect("output_limit"),
    "output/output_by_many.sh": expect("output_limit"),
    "output/output_to_its_makers.sh": expect(case=Case()),
    "output/not_utf_8.py": expect("wrong_answer"),
    "output/closed_output.sh": expect("runtime_error", case=Case(expected="right")),
    "output/right_output_then_a_crash.py": expect("runtime_error", case=Case(expected="right")),
    "output/right_output_too_late.py": expect(
        "time_limit", case=Case(expected="right"), limits=replace(SHORT, cpu_seconds=0.2)
    ),
    "output/right_output_too_much_memory.py": expect("memory_limit", case=Case(expected="right")),
    "files/disk.py": expect("runtime_error"),
    "files/files.py": expect("runtime_error"),
    "files/hard_links.py": expect("runtime_error"),
    "files/deep_directories.py": expect("runtime_error"),
    "files/sparse_file.sh": expect("runtime_error", "accepted"),
    # As many directories as the host's own programs have: over a second where none is in the cache yet.
    "files/writes_outside.py": expect(limits=replace(SHORT, cpu_seconds=10.0, wall_seconds=30.0)),
    "files/changes_its_input.py": expect(case=Case(input="input", expected="")),
    "grader/reads_the_expected_output.py": expect(
        "wrong_answer", case=Case(input="1", expected="expected-output-7f3a9c")
    ),
    "kernel/32_bit_calls.c": expect("runtime_error"),
    "compiler/includes_a_device.c": expect("compile_error"),
    "compiler/includes_the_host_s_secrets.c": expect("compile_error"),
    "compiler/includes_the_maker_s_environment.c": expect("compile_error", "accepted"),
    "compiler/assembles_the_host_s_secrets.c": expect("compile_error"),
    "compiler/includes_itself.c": expect("compile_error"),
    "compiler/enormous_program.c": expect("compile_error"),
    "compiler/enormous_messages.cpp": expect("compile_error"),
    "compiler/endless_templates.cpp": expect("compile_error"),
    "compiler/compiles_what_runs_while_compiling.c": expect("compile_error"),
}


def _source(path: Path) -> str:
    return ((ATTACKS / "attempt.py").read_text() if path.suffix == ".py" else "") + path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_attack_achieves_nothing(service: RunningService, path: Path) -> None:
    expected = EXPECTED.get(f"{path.parent.name}/{path.name}", expect())
    before = service.host_state()
    report = service.run(LANGUAGES[path.suffix], _source(path), expected.case, limits=expected.limits)
    assert report.verdict in expected.verdicts, report
    assert "root:" not in str(report), "a file of the host"
    assert service.host_state() == before
    assert service.run("bash", "echo still here").cases[0].output == "still here\n"


def test_the_table_names_files_that_exist() -> None:
    assert set(EXPECTED) <= {f"{path.parent.name}/{path.name}" for path in FILES}
