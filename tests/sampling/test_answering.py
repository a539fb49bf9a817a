"""Answers come from a real vLLM, and from a server that speaks OpenAI's chat completions."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from transformers import AutoTokenizer

from megatron_k15.errors import DataError
from megatron_k15.sampling import answering
from megatron_k15.sampling.answering import Answer, AnsweringError, Ask, EndpointAnswerer, PoolAnswerer
from tests.conftest import TinyVllm
from tests.sampling.scripted_model import question

ASK = Ask(instruction="{prompt}\n\nAnswer:", num_answers=3, temperature=1.0, max_tokens=6, seed=0)


def test_a_pool_answers_with_a_seed_per_answer(vllm_tiny: TinyVllm) -> None:
    vllm_tiny.publish(vllm_tiny.start_tensors)
    answerer = PoolAnswerer(
        name="tiny",
        pool=vllm_tiny.pool,
        tokenizer=AutoTokenizer.from_pretrained(vllm_tiny.model_dir),
        max_model_len=512,
        chat_template=False,
    )
    first = vllm_tiny.run(answerer.answers(question("What is 3 + 4?"), ASK))
    assert len(first) == 3
    assert len({answer.text for answer in first}) > 1
    # Six random tokens seldom hold the end of the sequence.
    assert all(answer.num_tokens == 6 for answer in first if not answer.is_whole)
    with pytest.raises(DataError, match="prompt q cannot be asked: file:q: a prompt must have 1 to 511 tokens"):
        vllm_tiny.run(answerer.answers(question("x" * 600), ASK))


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def _ask(handler: Handler) -> list[Answer]:
    """What the answerer makes of a server with this handler."""
    application = web.Application()
    application.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    answerer = EndpointAnswerer(name="m", base_url=f"http://127.0.0.1:{port}/v1", api_key="secret")
    try:
        return list(await answerer.answers(question("What is 3 + 4?"), ASK))
    finally:
        await runner.cleanup()


def test_an_endpoint_is_asked_as_openai_has_it_and_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.headers.get("Authorization"), await request.json()))
        if len(seen) == 1:
            return web.Response(status=503)
        text, reason = {1: ("7", "stop"), 2: ("8", "length")}.get(len(seen) - 1, (None, "stop"))
        choice = {"message": {"content": text}, "finish_reason": reason}
        return web.json_response({"choices": [choice], "usage": {"completion_tokens": len(seen)}})

    monkeypatch.setattr(answering, "RETRY_SECONDS", 0.01)
    found = asyncio.run(_ask(handler))
    assert sorted(found) == [("", 4, True), ("7", 2, True), ("8", 3, False)]
    authorization, body = seen[1]
    assert authorization == "Bearer secret"
    assert body["messages"] == [{"role": "user", "content": "What is 3 + 4?\n\nAnswer:"}]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 1.0, 6)
    assert len({body["seed"] for _, body in seen}) == 3, "each answer has its seed, the one sent again its own"


@pytest.mark.parametrize("answer", [{"choices": []}, {"error": "no"}, [], {"choices": [{}]}])
def test_an_endpoint_that_speaks_otherwise_answers_nothing(answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(answer)

    monkeypatch.setattr(answering, "RETRY_SECONDS", 0.01)
    with pytest.raises(AnsweringError, match="must answer as OpenAI's chat completions do, with one choice"):
        asyncio.run(_ask(handler))
