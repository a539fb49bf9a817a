"""Where a problem's generator comes from, and what it makes.

A generator is a Python program that may import cyaron. For each case it reads the case's number (from 1) and the number
of cases on one line of standard input, and prints one input of the problem. `random`, which CYaRon draws from, is
seeded by problem and case before it starts: the same generator makes the same cases.
"""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass

from megatron_k15.sandbox.fenced_program import extract_program
from megatron_k15.sandbox.values import MIB, Case, Limits, Submission
from megatron_k15.test_cases.problems import SourceProblem

GENERATOR_LIMITS = Limits(cpu_seconds=5.0, wall_seconds=20.0, output_bytes=4 * MIB)
PRELUDE = """import io as _io, random as _random, sys as _sys
_line = _sys.stdin.readline()
_random.seed({seed!r} + _line.split()[0])
_sys.stdin = _io.StringIO(_line)
"""
INSTRUCTION = """Write a test input generator for the programming problem below, as one Python program.

- It may use the CYaRon library: `from cyaron import *` gives randint, Vector.random(count, [(low, high), ...]),
  String.random(length, charset="abc"), Graph.tree(n), Graph.graph(n, m) and others. It must print the input to standard
  output; do not use CYaRon's IO class and write no files.
- It reads one line with two integers from standard input, the number of this case (from 1) and the number of cases, and
  prints exactly one input that follows the problem's format and limits.
- Early cases are small and hit corner cases (least sizes, equal values, extreme values); later ones grow to the largest
  sizes that the limits allow. Cases differ from one another.
- Do not seed the random number generator.

Answer with the program in one ```python block.

Problem:

{statement}
"""


class EndpointError(Exception):
    """The endpoint did not answer: nothing is known of the problem, try again later."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server, such as vLLM's."""

    base_url: str
    """With its `/v1`."""
    model: str
    api_key: str = ""
    temperature: float = 0.7
    max_tokens: int = 4096
    timeout_seconds: float = 300.0

    def write_generator(self, problem: SourceProblem) -> str | None:
        """The program in the model's answer; None where it holds none.

        Raises:
            EndpointError: no answer, or none in the protocol.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": INSTRUCTION.format(statement=problem.statement)}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        url = f"{self.base_url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:
                text = json.loads(response.read())["choices"][0]["message"]["content"] or ""
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise EndpointError(f"{url} must answer as OpenAI's chat completions do; {error!r}") from error
        return extract_program(text)


def generator_submission(problem: SourceProblem, source: str, *, num_cases: int, max_bytes: int) -> Submission:
    """One run per case, all in one submission; what each prints is an input.

    Args:
        max_bytes: longest input; longer ones come back cut, and are dropped.
    """
    return Submission(
        language="python",
        source=PRELUDE.format(seed=f"{problem.id}/") + source,
        cases=tuple(Case(input=f"{number} {num_cases}\n") for number in range(1, num_cases + 1)),
        limits=GENERATOR_LIMITS,
        stop_at_first_failure=False,
        returned_output_bytes=max_bytes,
    )
