"""The states of a joined instance, over a client that does what a test tells it to."""

import asyncio
from typing import Any

import pytest

from megatron_k15.engines.client import EngineGone
from megatron_k15.engines.joining.joined import JoinedInstance
from megatron_k15.engines.joining.member import Member
from megatron_k15.engines.types import WeightUpdate
from megatron_k15.errors import EngineError

UPDATE = WeightUpdate(info={}, version=4)


class Client:
    """Notes its calls; `broken` ones fail."""

    def __init__(self, *broken: str) -> None:
        self.calls: list[str] = []
        self.broken = broken

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> bool:
            self.calls.append(name)
            await asyncio.sleep(0)
            if name in self.broken:
                raise EngineGone(f"{name} failed")
            return True

        return call


async def _agrees(client: Any, update: WeightUpdate) -> None:
    pass


async def _differs(client: Any, update: WeightUpdate) -> None:
    raise EngineError("other logprobs")


async def _nothing() -> None:
    pass


def _joined(client: Client) -> JoinedInstance:
    member = Member(id="a", life=0, address="h:1")
    return JoinedInstance(member, client, weight_timeout_seconds=1.0)  # type: ignore[arg-type]


async def _load(joined: JoinedInstance, check: Any = _agrees, *, resume: bool = True) -> None:
    joined.load(UPDATE, check=check, resume=resume, on_ready=_nothing)
    await asyncio.sleep(0.05)


def test_it_gets_work_only_with_the_weights_loaded_and_compared() -> None:
    async def run() -> None:
        client = Client()
        joined = _joined(client)
        with pytest.raises(EngineGone, match="h:1 is not ready"):
            await joined.ready_client()
        await joined.check(1.0)
        assert not joined.is_ready, "it answers, but holds no weights"
        await _load(joined)
        assert joined.is_ready
        assert joined.version == 4
        assert client.calls == ["pause", "load_weights", "resume"]
        joined.hold()
        assert not joined.is_ready
        await asyncio.sleep(0.01)
        await joined.check(1.0)
        assert not joined.is_ready, "it holds the weights of before"
        assert client.calls[3:] == ["pause"]

    asyncio.run(run())


def test_while_sampling_is_paused_it_loads_and_stays_paused() -> None:
    async def run() -> None:
        client = Client()
        await _load(_joined(client), resume=False)
        assert "resume" not in client.calls

    asyncio.run(run())


@pytest.mark.parametrize("broken", ["pause", "load_weights", "resume"])
def test_a_failing_load_drops_it(broken: str) -> None:
    async def run() -> None:
        client = Client(broken)
        joined = _joined(client)
        await _load(joined)
        assert not joined.is_ready
        assert f"{broken} failed" in joined.gone
        assert client.calls[-1] == "close"

    asyncio.run(run())


def test_other_logprobs_drop_it() -> None:
    async def run() -> None:
        joined = _joined(Client())
        await _load(joined, _differs)
        assert joined.gone == "weight version 4: other logprobs"

    asyncio.run(run())


def test_a_failed_connection_is_taken_back_once_it_answers() -> None:
    async def run() -> None:
        client = Client()
        joined = _joined(client)
        await _load(joined)
        joined.suspect(await joined.ready_client())
        assert not joined.is_ready
        await joined.check(1.0)
        assert joined.is_ready

    asyncio.run(run())
