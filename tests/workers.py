"""How the tests divide over the workers of `pytest -n`: what shares a fixture stays together, what takes longest starts
first.

A file's tests go to one worker, since they share its module fixtures; all that use one session fixture go to one too,
so that it is started once. Tests of the files in `APART` share nothing and go wherever a worker is free.
"""

from collections.abc import Sequence

import pytest

SHARED_FIXTURES = ("vllm_tiny", "layout_results")
APART = ("tests/test_benchmarks.py", "tests/test_train_rl.py", "tests/checkpoint/test_continue.py")
LONGEST_FIRST = ("tests/test_kill.py", "tests/test_quickstart.py", "tests/test_train_rl.py", "tests/training")


def divide(items: list[pytest.Item]) -> None:
    """Give each test the mark by which `--dist loadgroup` keeps it with others, and sort the groups."""
    for item in items:
        file = item.nodeid.partition("::")[0]
        if group := _group(file, getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST_FIRST))


def _group(file: str, fixtures: Sequence[str]) -> str:
    for fixture in SHARED_FIXTURES:
        if fixture in fixtures:
            return fixture
    if file.startswith("tests/sandbox/"):
        return "sandbox"  # its two services are session fixtures
    return "" if file in APART else file
