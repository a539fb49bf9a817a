"""Answers of vLLM that must not be used are refused; no server is needed for that."""

import asyncio
import math
import socket

import pytest

from megatron_k15.engines.client import (
    EngineClient,
    parse_version,
    read_generation,
    read_prompt_logprobs,
    sampling_params,
)
from megatron_k15.engines.types import GenerateRequest
from megatron_k15.errors import EngineError

REQUEST = GenerateRequest(token_ids=(1, 2), max_tokens=3, request_key="p/0")


def _answer(token_ids=(5, 6), logprobs=(-0.5, -1.0), logprob_ids=None, spans=(("3", 0, 2),), finish="stop"):
    content = [
        {"logprob": value, "token_id": token} for value, token in zip(logprobs, logprob_ids or token_ids, strict=False)
    ]
    versions = [{"version": version, "start": start, "end": end} for version, start, end in spans]
    choice = {
        "token_ids": list(token_ids),
        "logprobs": {"content": content},
        "finish_reason": finish,
        "weight_versions": versions,
    }
    return {"choices": [choice]}


def _read(answer):
    return read_generation(answer, REQUEST, who="vLLM 0", vocab_size=10)


def test_a_good_answer_is_read():
    generation = _read(_answer(spans=(("default", 0, 1), ("7", 1, 2)), finish="abort"))
    assert generation.token_ids == (5, 6)
    assert generation.logprobs == (-0.5, -1.0)
    assert generation.finish_reason == "aborted"
    assert [(span.version, span.start, span.end) for span in generation.versions] == [(0, 0, 1), (7, 1, 2)]


def test_rounding_above_zero_is_cut():
    assert _read(_answer(logprobs=(1e-6, -1.0))).logprobs == (0.0, -1.0)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"choices": []},
        _answer(finish="unheard_of"),
        _answer(token_ids=(5, 6, 7, 8), logprobs=(-1, -1, -1, -1), spans=(("3", 0, 4),)),
        _answer(logprobs=(-0.5,)),
        _answer(logprob_ids=(6, 5)),
        _answer(token_ids=(5, 10)),
        _answer(logprobs=(-0.5, math.nan)),
        _answer(logprobs=(-0.5, -9999.0)),
        _answer(logprobs=(-0.5, 0.5)),
        _answer(spans=(("3", 0, 1),)),
        _answer(spans=(("3", 0, 1), ("4", 0, 2))),
        _answer(spans=()),
        _answer(spans=(("latest", 0, 2),)),
    ],
)  # fmt: skip
def test_a_bad_answer_is_refused(answer):
    with pytest.raises(EngineError):
        _read(answer)


def test_prompt_logprobs_are_those_of_the_given_tokens():
    entries = [None, {"7": {"logprob": -2.0}, "9": {"logprob": -0.1}}]
    assert read_prompt_logprobs({"prompt_logprobs": entries}, (4, 7), who="vLLM 0") == (0.0, -2.0)
    for bad in (None, entries[:1], [None, {"9": {"logprob": -0.1}}], [None, {"7": {"logprob": -9999.0}}]):
        with pytest.raises(EngineError):
            read_prompt_logprobs({"prompt_logprobs": bad}, (4, 7), who="vLLM 0")


def test_versions_are_numbers():
    assert [parse_version(text, who="") for text in ("default", "0", "12")] == [0, 0, 12]
    for bad in ("-1", "1.0", "٣", None, 3):
        with pytest.raises(EngineError):
            parse_version(bad, who="")


def test_text_is_made_inside_vllm_only_to_find_stop_strings():
    assert sampling_params(REQUEST)["detokenize"] is False
    with_stop = sampling_params(GenerateRequest(token_ids=(1,), max_tokens=1, stop=("x",)))
    assert (with_stop["detokenize"], with_stop["stop"]) == (True, ["x"])


@pytest.mark.parametrize("listens", [True, False])
def test_a_server_that_does_not_listen_any_more_is_dead_and_a_silent_one_is_not(listens, tmp_path):
    """vLLM's API server stops listening when its engine core has died, and then waits for calls nobody will answer:
    an update that hangs in such a call must not keep its vLLM from being restarted."""

    async def ask() -> tuple[bool, bool]:
        client = EngineClient(tmp_path / "http.sock")
        try:
            return await client.answers(0.3), client.engine_is_dead
        finally:
            await client.close()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "http.sock"))
        if listens:
            server.listen()
        assert asyncio.run(ask()) == (False, not listens)
