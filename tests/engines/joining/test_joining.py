"""A second host joins the pool, works, is unplugged in the middle of a rollout, and comes back."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_k15.config import JoinConfig
from megatron_k15.engines.joining.metadata import C10dMetadata
from megatron_k15.engines.joining.roster import Roster, _members
from megatron_k15.engines.pool import EnginePool
from megatron_k15.engines.types import GenerateRequest
from megatron_k15.event_loop import EventLoopThread
from tests.conftest import VOCAB_SIZE, TinyVllm, tiny_engine_config
from tests.documents import ROOT
from tests.engines.joining.hosts import Host

TOKEN = "a-secret-of-the-tests-0123456789"
NUM_TOKENS = 600
PATIENCE_SECONDS = 12.0
"""On a busy machine seconds pass between two signs of life."""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


@pytest.fixture(scope="module")
def roster(host: Host, tiny_model_dir: Path) -> Roster:
    config = JoinConfig(listen=f"{host.here}:0", patience_seconds=PATIENCE_SECONDS)
    return Roster(
        config,
        C10dMetadata(dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)),
        token=TOKEN,
        model_dir=tiny_model_dir,
        dtype="fp32",
        engine=tiny_engine_config(max_model_len=2048),
        vocab_size=VOCAB_SIZE,
        weight_timeout_seconds=60.0,
    )


@pytest.fixture(scope="module")
def tiny(
    host: Host, roster: Roster, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TinyVllm]:
    """A pool of one vLLM here, on version 1, and a serving process on the other host that looks for it."""
    folder = tmp_path_factory.mktemp("joined")
    pool = EnginePool(
        tiny_engine_config(max_model_len=2048), model_dir=tiny_model_dir, dtype="fp32", log_dir=folder, roster=roster
    )
    with EventLoopThread() as loop:
        serving = None
        try:
            starting = loop.start(pool.start())
            while not roster.is_open:
                assert not starting.done() or roster.is_open, starting.exception()
                time.sleep(0.05)
            serving = _serve(host, roster.port, folder)
            loop.wait(starting, seconds=300, waiting_for="vLLM to start")
            tiny = TinyVllm(pool, loop, tiny_model_dir)
            tiny.publish(tiny.perturbed(1))
            yield tiny
        finally:
            if serving is not None:
                serving.terminate()
                assert serving.wait(60) == 0, (folder / "serve.log").read_text()[-2000:]
                loop.run(_until(lambda: not roster.present, 5.0), seconds=10, waiting_for="the guest to leave")
            loop.run(pool.stop(), seconds=60, waiting_for="vLLM to stop")
            tiny.segment.close()
            tiny.segment.unlink()


def _serve(host: Host, port: int, folder: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "megatron_k15.engines.serve", "--join", f"{host.here}:{port}"]
    environment = {**os.environ, "K15_JOIN_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
    with (folder / "serve.log").open("wb") as log:
        return subprocess.Popen(host.command(*words), cwd=folder, env=environment, stdout=log, stderr=log)


def _requests(count: int) -> list[GenerateRequest]:
    return [
        GenerateRequest(
            token_ids=(3, 5, index), max_tokens=NUM_TOKENS, seed=index, ignore_eos=True, request_key=f"r{index}"
        )
        for index in range(count)
    ]


async def _until(condition, seconds: float = 90.0) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.05)

    await asyncio.wait_for(wait(), seconds)


def _check_logprobs(tiny: TinyVllm, generations, weights: dict[str, torch.Tensor], version: int) -> None:
    """All of one version, with the logprobs of its weights."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny.model_dir, dtype=torch.float32)
    model.load_state_dict(weights)
    for index, generation in enumerate(generations):
        assert [span.version for span in generation.versions] == [version]
        assert len(generation.token_ids) == NUM_TOKENS
        ids = torch.tensor([(3, 5, index, *generation.token_ids)])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(ids).logits[0, 2:-1], -1)
        expected = logprobs.gather(1, ids[0, 3:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(generation.logprobs), expected, atol=1e-3, rtol=0)


def test_what_others_put_into_the_store_is_nobody() -> None:
    good = {"id": "a", "life": 0, "address": "h:1", "heard": 5.0}
    found = {"members/a": good, "members/b": {"id": "b"}, "members/c": {**good, "address": "no port"}, "members/d": []}
    assert list(_members(found)) == ["a"]


def test_an_instance_joins_works_is_unplugged_and_comes_back(tiny: TinyVllm, roster: Roster, host: Host) -> None:
    pool = tiny.pool
    tiny.run(_until(lambda: pool.stats().num_joined == 1))
    weights = tiny.perturbed(2)
    version = tiny.publish(weights)

    async def a_rollout(unplugged: bool):
        await _until(lambda: pool.stats().num_joined == 1)
        (joined,) = roster.ready
        before = pool.stats().num_answered_by_joined
        everything = asyncio.gather(*(pool.generate(request) for request in _requests(12)))
        await _until(lambda: joined.num_in_flight == 6)
        if unplugged:
            host.unplug()
        return await everything, pool.stats().num_answered_by_joined - before

    generations, answered = tiny.run(a_rollout(unplugged=False))
    assert answered == 6, "half of them"
    _check_logprobs(tiny, generations, weights, version)

    resent = pool.stats().num_resent
    generations, answered = tiny.run(a_rollout(unplugged=True))
    assert answered < 6
    assert pool.stats().num_resent - resent == 6 - answered, "no trajectory is lost, and no other is sampled again"
    _check_logprobs(tiny, generations, weights, version)
    assert pool.stats().num_joined == 0

    # Training goes on without it, and it comes back to the weights of the day.
    weights = tiny.perturbed(3)
    version = tiny.publish(weights)
    host.plug()
    generations, answered = tiny.run(a_rollout(unplugged=False))
    assert answered == 6
    _check_logprobs(tiny, generations, weights, version)
