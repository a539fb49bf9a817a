"""Make test cases for programming problems, as §2.3.5 of the report does, and keep the problems that can be trusted.

python tools/generate_test_cases.py --problems FILE.jsonl --output DIR [--endpoint URL --model NAME]

Starts a sandbox of its own unless --sandbox names one. Run it again to go on after an interruption.
"""

import argparse
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from megatron_k15.errors import ConfigError, K15Error
from megatron_k15.sandbox.client import SandboxBusyError, SandboxClient, SandboxGoneError
from megatron_k15.sandbox.local_service import LocalService
from megatron_k15.sandbox.values import MIB, Report, Submission
from megatron_k15.test_cases.funnel import funnel_table, run_funnel
from megatron_k15.test_cases.generation import Generation, Run
from megatron_k15.test_cases.generators import Endpoint
from megatron_k15.test_cases.problems import read_source_problems
from megatron_k15.test_cases.voting import Thresholds

PACKAGES = ("cyaron", "xeger", "colorful")
"""What a generator may import: CYaRon and what it needs."""
PATIENCE_SECONDS = 600.0


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, markup=False)
    try:
        with ExitStack() as stack:
            generation = _generation(options, stack)
            outcomes, num_open = run_funnel(
                generation,
                read_source_problems(options.problems),
                options.output,
                num_threads=options.threads,
                say=lambda text: console.print(text, soft_wrap=True),
            )
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console.print(funnel_table(outcomes))
    console.print(f"{options.output}/problems.jsonl can be named in prompts.files", soft_wrap=True)
    if num_open:
        print(f"error: {num_open} problems are not done; run the same command again", file=sys.stderr)
    return 1 if num_open else 0


def _generation(options: argparse.Namespace, stack: ExitStack) -> Generation:
    if bool(options.endpoint) != bool(options.model):
        raise ConfigError("--endpoint and --model must be given together")
    endpoint = None
    if options.endpoint:
        endpoint = Endpoint(
            base_url=options.endpoint, model=options.model, api_key=os.environ.get("OPENAI_API_KEY", "")
        )
    try:
        thresholds = Thresholds(
            num_cases=options.num_cases,
            num_submissions=options.num_submissions,
            min_agreeing=options.min_agreeing,
            min_valid_cases=options.min_valid_cases,
            min_passing=options.min_passing,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Generation(
        run=_runner(options.sandbox, stack),
        thresholds=thresholds,
        endpoint=endpoint,
        seed=options.seed,
        max_case_bytes=options.max_case_bytes,
    )


def _runner(address: str | None, stack: ExitStack) -> Run:
    """Runs a submission, again where the sandbox was busy or died."""
    if address:
        fixed = SandboxClient(address, token=os.environ.get("K15_SANDBOX_TOKEN"))
        return lambda submission: _patiently(lambda: fixed, submission)
    options = [word for package in PACKAGES for word in ("--package", package)]
    local = stack.enter_context(LocalService(options))
    return lambda submission: _patiently(local.ready, submission)


def _patiently(client, submission: Submission) -> Report:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return client().run(submission)
        except (SandboxGoneError, SandboxBusyError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _parser() -> argparse.ArgumentParser:
    report = Thresholds()
    parser = argparse.ArgumentParser(description="Generate test cases for programming problems (docs/test_cases.md).")
    parser.add_argument("--problems", type=Path, required=True, help="JSON lines; see docs/test_cases.md")
    parser.add_argument("--output", type=Path, required=True, help="a directory; results found there are kept")
    parser.add_argument("--endpoint", help="OpenAI-compatible URL with its /v1; the key is taken from OPENAI_API_KEY")
    parser.add_argument("--model", help="its model that writes generators")
    parser.add_argument("--sandbox", help="address of a running sandbox that was given cyaron (--package cyaron)")
    parser.add_argument("--threads", type=int, default=4, help="problems at one time (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-case-bytes", type=int, default=MIB, help="longest input or output (%(default)s)")
    for name, text in (
        ("num_cases", "cases asked of a generator"),
        ("num_submissions", "submissions that vote"),
        ("min_agreeing", "votes that make a case valid"),
        ("min_valid_cases", "valid cases a problem needs"),
        ("min_passing", "submissions that must pass all valid cases"),
    ):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=getattr(report, name), help=f"{text} (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
