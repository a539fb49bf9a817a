"""One problem through the funnel: special judge? → generator → inputs → votes → kept, or dropped with a reason."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass

from megatron_k15.sandbox.values import MIB, Case, CaseReport, Report, Submission
from megatron_k15.test_cases.generators import Endpoint, generator_submission
from megatron_k15.test_cases.outcome import Outcome, Reason
from megatron_k15.test_cases.problems import KnownSubmission, SourceProblem
from megatron_k15.test_cases.voting import Thresholds, agreed_outputs, passes

Run = Callable[[Submission], Report]
"""Runs a submission in the sandbox, whatever it takes."""


class _DroppedError(Exception):
    """Ends a problem's way; carries what `Outcome` says of it."""

    def __init__(self, reason: Reason, detail: str, **counts: int) -> None:
        super().__init__(detail)
        self.reason = reason
        self.counts = counts


@dataclass(frozen=True, kw_only=True)
class Generation:
    """`generate(problem)` for one set of settings.

    Args:
        endpoint: writes the generators of problems that bring none; None leaves these out.
        seed: decides which submissions vote.
        max_case_bytes: longest input and longest output of a case.
    """

    run: Run
    thresholds: Thresholds
    endpoint: Endpoint | None = None
    seed: int = 0
    max_case_bytes: int = MIB

    def fingerprint(self, problem: SourceProblem) -> str:
        model = self.endpoint.model if self.endpoint and problem.generator is None else None
        settings = [asdict(problem), asdict(self.thresholds), self.seed, self.max_case_bytes, model]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def generate(self, problem: SourceProblem) -> Outcome:
        """Raises:
        EndpointError, SandboxError: nothing was found out about the problem.
        """
        generator = problem.generator
        try:
            voters = self._voters(problem)
            generator = generator or self._written(problem)
            inputs = self._inputs(problem, generator)
            prompt, counts = self._vote(problem, voters, inputs)
        except _DroppedError as dropped:
            reason, detail, counts, prompt = dropped.reason, str(dropped), dropped.counts, None
        else:
            reason, detail = "kept", f"{counts['num_valid_cases']} cases"
        return Outcome(
            id=problem.id,
            fingerprint=self.fingerprint(problem),
            reason=reason,
            detail=detail,
            generator=generator,
            prompt=prompt,
            **counts,
        )

    def _voters(self, problem: SourceProblem) -> list[KnownSubmission]:
        if problem.needs_special_judge:
            raise _DroppedError("special_judge", "several outputs are right: set aside for a checker program")
        needed = self.thresholds.num_submissions
        if len(problem.submissions) < needed:
            raise _DroppedError("too_few_submissions", f"{needed} must vote, there are {len(problem.submissions)}")
        return random.Random(f"{self.seed}/{problem.id}").sample(problem.submissions, needed)

    def _written(self, problem: SourceProblem) -> str:
        if self.endpoint is None:
            raise _DroppedError("no_generator", "the problem brings none, and there is no endpoint to write one")
        if (source := self.endpoint.write_generator(problem)) is None:
            raise _DroppedError("no_generator", f"the answer of {self.endpoint.model} holds no program")
        return source

    def _inputs(self, problem: SourceProblem, generator: str) -> list[str]:
        """Different inputs, in the generator's order."""
        wanted = self.thresholds.num_cases
        report = self.run(generator_submission(problem, generator, num_cases=wanted, max_bytes=self.max_case_bytes))
        inputs = list(dict.fromkeys(output for case in report.cases if (output := self._whole(case))))
        if len(inputs) < self.thresholds.min_valid_cases:
            failed = next((case for case in report.cases if case.verdict != "accepted"), None)
            why = f"; a run ended with {failed.verdict}: {failed.stderr.strip()[-300:]}" if failed else ""
            needed = self.thresholds.min_valid_cases
            detail = f"at least {needed} different inputs are needed, {len(inputs)} came{why}"
            raise _DroppedError("generator_fails", detail, num_inputs=len(inputs))
        return inputs

    def _whole(self, case: CaseReport) -> str | None:
        """What a run printed; None where it did not end well, or printed what was cut on its way here."""
        is_whole = case.verdict == "accepted" and case.output_bytes <= self.max_case_bytes
        return case.output if is_whole and "\ufffd" not in case.output else None

    def _vote(
        self, problem: SourceProblem, voters: list[KnownSubmission], inputs: list[str]
    ) -> tuple[dict[str, object], dict[str, int]]:
        outputs = [self._outputs(problem, voter, inputs) for voter in voters]
        agreed = agreed_outputs(outputs, self.thresholds)
        cases = [
            {"input": given, "expected": expected}
            for given, expected in zip(inputs, agreed, strict=True)
            if expected is not None
        ]
        counts = {"num_inputs": len(inputs), "num_valid_cases": len(cases)}
        if len(cases) < self.thresholds.min_valid_cases:
            detail = f"{self.thresholds.min_agreeing} of {len(voters)} submissions agree in {len(cases)} cases only"
            raise _DroppedError("too_few_valid_cases", detail, **counts)
        counts["num_passing"] = sum(passes(outputs, agreed))
        if counts["num_passing"] < self.thresholds.min_passing:
            detail = f"{counts['num_passing']} of {len(voters)} submissions pass all valid cases"
            raise _DroppedError("submissions_disagree", detail, **counts)
        return _prompt(problem, cases), counts

    def _outputs(self, problem: SourceProblem, voter: KnownSubmission, inputs: list[str]) -> list[str | None]:
        report = self.run(
            Submission(
                language=voter.language,
                source=voter.source,
                cases=tuple(Case(input=given) for given in inputs),
                limits=problem.limits,
                stop_at_first_failure=False,
                returned_output_bytes=self.max_case_bytes,
            )
        )
        if report.verdict == "compile_error":
            return [None] * len(inputs)
        return [self._whole(case) for case in report.cases]


def _prompt(problem: SourceProblem, cases: list[dict[str, str]]) -> dict[str, object]:
    """A row that `prompts.files` takes."""
    metadata = {"language": problem.language, "cases": cases, "limits": asdict(problem.limits)}
    return {"id": problem.id, "prompt": problem.statement, "task": "code", "metadata": metadata}
