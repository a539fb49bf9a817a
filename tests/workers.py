"""How the tests divide over the workers of `pytest -n`: what shares a fixture stays together, what takes longest starts
first."""

import pytest
from xdist.scheduler import LoadScopeScheduling

TOGETHER = {
    "tests/sandbox/": "sandbox",  # its two services
    "tests/training/test_layouts.py": "tiny",  # layout_results, and vllm_tiny from here on
    "tests/transfer/test_layouts_to_vllm.py": "tiny",
    "tests/sampling/test_answering.py": "tiny",
    "tests/engines/test_pool.py": "tiny",
    "tests/engines/test_update_in_parts.py": "tiny",
    "tests/rollout/test_continuation.py": "tiny",
    "tests/rollout/test_stream.py": "tiny",
}
"""Users of the same session fixture go to one worker, so that it is started once."""
APART = ("tests/test_benchmarks.py", "tests/test_train_rl.py", "tests/checkpoint/test_continue.py")
"""Their tests share nothing; the tests of any other file share its module fixtures, and go to one worker."""
LONGEST_FIRST = (
    "tests/training/test_layouts.py",
    "tests/test_kill.py",
    "tests/test_train_rl.py",
    "tests/test_joined_run.py",
    "tests/test_quickstart.py",
    "tests/test_recipe.py",
    "tests/sandbox/",
)


class Scheduling(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file in APART:
            return nodeid
        return next((group for path, group in TOGETHER.items() if file.startswith(path)), file)


def sort_by_length(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((i for i, path in enumerate(LONGEST_FIRST) if item.nodeid.startswith(path)), len(LONGEST_FIRST))

    items.sort(key=place)
