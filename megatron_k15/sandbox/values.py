"""What travels between the sandbox and its clients, as JSON with these names.

    Submission (a program, its test cases, limits) → Report (a verdict, and what was measured per case)

Example::

    submission = Submission(language="python", source="print(int(input()) * 2)",
                            cases=(Case(input="4\n", expected="8"), Case(input="x\n", expected="?")))
    report = await client.run(submission)
    report.verdict        # "runtime_error"
    report.failing_case   # 1
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

MIB = 1 << 20
TOKEN_VARIABLE = "K15_SANDBOX_TOKEN"
"""Environment variable of a service that is to ask for a token."""
STRICT = {"extra": "forbid"}
"""For the service's parser (pydantic): a misspelt field is refused, not ignored."""

Verdict = Literal[
    "accepted",
    "wrong_answer",
    "time_limit",
    "memory_limit",
    "output_limit",
    "runtime_error",
    "compile_error",
]
Comparison = Literal["tokens", "exact"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one program may use in one case. Each is enforced from outside the jail."""

    __pydantic_config__ = STRICT

    cpu_seconds: float = 2.0
    """CPU time of all its processes and threads together, as the cgroup counts it."""
    wall_seconds: float = 10.0
    memory_bytes: int = 512 * MIB
    """All its processes together, its files in the jail's tmpfs included."""
    output_bytes: int = 4 * MIB
    """Standard output; standard error has the same limit of its own."""
    max_processes: int = 64
    """Processes and threads at one time."""
    disk_bytes: int = 64 * MIB
    disk_files: int = 4096
    """Files and directories."""

    def __post_init__(self) -> None:
        for name, (least, most) in LIMIT_RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"limits.{name} must be from {least:g} to {most:g}, got {value}")


LIMIT_RANGES: dict[str, tuple[float, float]] = {
    "cpu_seconds": (0.01, 600),
    "wall_seconds": (0.05, 1800),
    "memory_bytes": (4 * MIB, 1 << 40),
    "output_bytes": (0, 1 << 30),
    "max_processes": (1, 4096),
    "disk_bytes": (MIB, 1 << 36),
    "disk_files": (16, 1 << 24),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run of the program. Only `input` enters its jail."""

    __pydantic_config__ = STRICT

    input: str = ""
    """Standard input."""
    expected: str | None = None
    """What it should print; None accepts any output of a run that ends well."""


@dataclass(frozen=True, kw_only=True)
class Checker:
    """A program that judges outputs where several are right. It runs in a jail of its own after each case, with the
    arguments `input output expected` (names of files), and exits with 0 for right and 1 for wrong."""

    __pydantic_config__ = STRICT

    language: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A program and the cases it is run on: compiled once, then one jail per case."""

    __pydantic_config__ = STRICT

    language: str
    source: str
    cases: tuple[Case, ...] = (Case(),)
    comparison: Comparison = "tokens"
    """`tokens`: equal when split at white space. `exact`: equal bytes."""
    checker: Checker | None = None
    """Takes the place of `comparison`."""
    limits: Limits = field(default_factory=Limits)
    stop_at_first_failure: bool = True
    returned_output_bytes: int = 4096
    """At most so much of standard output and of standard error comes back per case."""

    def __post_init__(self) -> None:
        if not self.cases:
            raise ValueError("cases must hold at least one case; use [{}] to run the program once without input")
        if self.returned_output_bytes < 0:
            raise ValueError(f"returned_output_bytes must be at least 0, got {self.returned_output_bytes}")


@dataclass(frozen=True, kw_only=True)
class CaseReport:
    """One case as it was measured. CPU time and memory are the cgroup's: they hold the jail's own start (2 to 5 ms)."""

    verdict: Verdict
    cpu_seconds: float
    wall_seconds: float
    peak_memory_bytes: int
    exit_code: int | None
    """128 + N when signal N ended it; None when the sandbox did."""
    output: str
    """Standard output, cut; bytes that are not UTF-8 become U+FFFD."""
    stderr: str
    output_bytes: int
    """How much it wrote to standard output before it ended."""


@dataclass(frozen=True, kw_only=True)
class CompileReport:
    accepted: bool
    cpu_seconds: float
    wall_seconds: float
    peak_memory_bytes: int
    messages: str
    """What the compiler printed, cut."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The verdict on a submission: that of the first case that is not accepted."""

    verdict: Verdict
    failing_case: int | None
    """Index of that case; None where all were accepted, and for `compile_error`."""
    cases: tuple[CaseReport, ...]
    """In order; ends with the failing case under `stop_at_first_failure`."""
    compile: CompileReport | None
    """None for a language that is not compiled."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(
            verdict=value["verdict"],
            failing_case=value["failing_case"],
            cases=tuple(CaseReport(**case) for case in value["cases"]),
            compile=CompileReport(**value["compile"]) if value["compile"] else None,
        )
