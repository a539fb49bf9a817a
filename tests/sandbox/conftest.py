"""One service per backend for all tests of the sandbox."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_k15.sandbox.local_service import LocalService
from tests.sandbox.running_service import LACKS, RunningService, fresh_uid

BACKENDS = ("bubblewrap", "crun")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Only root can make cgroups and mounts: elsewhere these tests say so, instead of failing one by one."""
    if LACKS:
        for item in items:
            if "sandbox" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason=LACKS))


@pytest.fixture(scope="session", params=BACKENDS)
def service(request: pytest.FixtureRequest) -> Iterator[RunningService]:
    yield from _running(request.param)


@pytest.fixture(scope="session")
def bubblewrap_service() -> Iterator[RunningService]:
    yield from _running("bubblewrap")


def _running(backend: str) -> Iterator[RunningService]:
    uid = fresh_uid()
    options = ("--backend", backend, "--slots", "1", "--first-uid", str(uid), "--max-waiting", "4")
    options += ("--languages", str(Path(__file__).with_name("languages.yaml")))
    with LocalService(options) as local:
        yield RunningService(local, uid)
