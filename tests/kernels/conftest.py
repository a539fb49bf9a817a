"""The compiled kernels, built from the present sources where they are not yet."""

import pytest

from megatron_k15.kernels.build import build


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    build()
