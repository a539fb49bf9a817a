"""Requests, weights and faults against the real vLLM on a tiny random model."""

import asyncio
import math
import os
import signal
import time

import pytest
import torch

from megatron_k15.engines.types import GenerateRequest
from megatron_k15.engines.weight_segment import SegmentLayout, WeightSegment
from megatron_k15.errors import EngineError
from tests.conftest import VOCAB_SIZE, write_version

PROBE = (5, 17, 90, 201, 33, 64, 128, 7)


@pytest.fixture(scope="module")
def reference(tiny_model_dir):
    """Logprobs by transformers: reference(tensors, token_ids) → one per token, 0.0 for the first."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)

    @torch.no_grad()
    def logprobs(tensors, token_ids):
        model.load_state_dict(tensors)
        ids = torch.tensor([token_ids])
        values = torch.log_softmax(model(ids).logits[0, :-1], dim=-1)
        return [0.0, *values.gather(1, ids[0, 1:, None])[:, 0].tolist()]

    return logprobs


def _requests(count, **changes):
    values = {"max_tokens": 24, "ignore_eos": True, **changes}
    return [
        GenerateRequest(token_ids=(3, 5, index % 200), seed=index, request_key=f"r{index}", **values)
        for index in range(count)
    ]


def _generate_all(tiny, requests):
    async def all_of_them():
        return await asyncio.gather(*(tiny.pool.generate(request) for request in requests))

    return all_of_them()


def _gap(left, right):
    assert len(left) == len(right)
    return max(abs(a - b) for a, b in zip(left, right, strict=True))


def _is_reaped(pid):
    return not os.path.exists(f"/proc/{pid}")  # noqa: PTH110


def test_logprobs_of_responses_are_those_of_the_published_weights(vllm_tiny, reference):
    """Both the prompt logprobs and the sampled tokens' own logprobs agree with transformers."""
    weights = vllm_tiny.perturbed(1)
    version = vllm_tiny.publish(weights)
    (prompt_logprobs,) = vllm_tiny.run(vllm_tiny.pool.prompt_logprobs([PROBE]))
    assert _gap(prompt_logprobs, reference(weights, PROBE)) < 1e-4
    for request, generation in zip(_requests(4), vllm_tiny.run(_generate_all(vllm_tiny, _requests(4))), strict=True):
        assert len(generation.token_ids) == 24
        assert generation.finish_reason == "length"
        assert [(span.version, span.start, span.end) for span in generation.versions] == [(version, 0, 24)]
        expected = reference(weights, request.token_ids + generation.token_ids)[len(request.token_ids) :]
        assert _gap(generation.logprobs, expected) < 1e-4


def test_logprobs_are_of_the_distribution_at_the_temperature(vllm_tiny, reference):
    """ln p at temperature T is log_softmax(logits / T); T = 2 halves the logits of a reference with a halved head."""
    weights = vllm_tiny.perturbed(1)
    vllm_tiny.publish(weights)
    (request,) = _requests(1, temperature=2.0)
    generation = vllm_tiny.run(vllm_tiny.pool.generate(request))
    halved = {**weights, "lm_head.weight": weights["lm_head.weight"] / 2}
    expected = reference(halved, request.token_ids + generation.token_ids)[len(request.token_ids) :]
    assert _gap(generation.logprobs, expected) < 1e-4


def test_the_same_seed_gives_the_same_response(vllm_tiny):
    (request,) = _requests(1)
    first = vllm_tiny.run(vllm_tiny.pool.generate(request))
    assert vllm_tiny.run(vllm_tiny.pool.generate(request)).token_ids == first.token_ids


def test_finish_reasons(vllm_tiny):
    """All logits 0: greedy takes token 0 ("!") again and again, each with the logprob of 1 in VOCAB_SIZE."""
    weights = {name: torch.zeros_like(tensor) for name, tensor in vllm_tiny.start_tensors.items()}
    vllm_tiny.publish(weights)
    pool = vllm_tiny.pool
    greedy = {"token_ids": (9,), "max_tokens": 40, "temperature": 0.0}
    repeated = vllm_tiny.run(
        pool.generate(GenerateRequest(**greedy, repetition_max_pattern_tokens=2, repetition_min_count=6))
    )
    assert repeated.finish_reason == "repetition"
    assert len(repeated.token_ids) < 40
    stopped = vllm_tiny.run(pool.generate(GenerateRequest(**greedy, stop=("!!!",))))
    assert (stopped.finish_reason, stopped.token_ids) == ("stop", (0, 0, 0))
    assert stopped.logprobs == pytest.approx([-math.log(VOCAB_SIZE)] * 3, abs=1e-5)


def test_an_update_in_the_middle_of_a_response_is_seen_in_its_versions_and_its_logprobs(vllm_tiny, reference):
    """Tokens after the update have the logprobs of the new weights given the whole prefix: no key or value of the old
    weights is left, neither of the response in flight nor of cached prompts."""
    old, new = vllm_tiny.perturbed(1), vllm_tiny.perturbed(2)
    (request,) = _requests(1, max_tokens=1000)

    async def update_while_generating(info):
        await vllm_tiny.pool.pause()
        response = asyncio.ensure_future(vllm_tiny.pool.generate(request))
        await vllm_tiny.freeze_under_way(1)
        await vllm_tiny.pool.update_weights(info, vllm_tiny.version)
        await vllm_tiny.pool.resume()
        return await response

    # Where the machine stalls before vLLM is paused, the response ends by itself: then once more.
    for _ in range(5):
        first = vllm_tiny.publish(old)
        generation = vllm_tiny.run(update_while_generating(vllm_tiny.write(new)))
        if len(generation.versions) > 1:
            break
    assert [span.version for span in generation.versions] == [first, vllm_tiny.version]
    cut = generation.versions[0].end
    assert 0 < cut < 1000
    tokens, start = request.token_ids + generation.token_ids, len(request.token_ids)
    assert _gap(generation.logprobs[:cut], reference(old, tokens)[start : start + cut]) < 1e-4
    assert _gap(generation.logprobs[cut:], reference(new, tokens)[start + cut :]) < 1e-4


def test_abort_returns_what_there_is(vllm_tiny):
    """More than vLLM samples before it is seen to be paused, on however fast a machine: some responses are finished
    then, some are under way, and some may not have begun."""

    async def abort_in_the_middle():
        await vllm_tiny.pool.pause()
        response = asyncio.ensure_future(_generate_all(vllm_tiny, _requests(64, max_tokens=2000)))
        await vllm_tiny.freeze_under_way(64)
        while not response.done():
            await vllm_tiny.pool.abort()
            await asyncio.wait([response], timeout=0.2)
        await vllm_tiny.pool.resume()
        return await response

    generations = vllm_tiny.run(abort_in_the_middle())
    aborted = [generation for generation in generations if generation.finish_reason == "aborted"]
    assert all(len(generation.token_ids) == len(generation.logprobs) < 2000 for generation in aborted)
    assert any(generation.token_ids for generation in aborted)
    finished = [generation for generation in generations if generation.finish_reason != "aborted"]
    assert all((g.finish_reason, len(g.token_ids)) == ("length", 2000) for g in finished)


def test_pause_holds_requests_until_resume(vllm_tiny):
    async def paused():
        await vllm_tiny.pool.pause()
        response = asyncio.ensure_future(_generate_all(vllm_tiny, _requests(1)))
        await asyncio.sleep(0.3)
        held = not response.done()
        await vllm_tiny.pool.resume()
        await response
        return held

    assert vllm_tiny.run(paused())


def _refused(tiny, info, version, match):
    """The update is refused, sampling stops, and the weights in use stay what they were."""
    before = tiny.run(tiny.pool.prompt_logprobs([PROBE]))
    with pytest.raises(EngineError, match=match):
        tiny.run(tiny.pool.update_weights(info, version))
    with pytest.raises(EngineError, match=match):
        tiny.run(tiny.pool.generate(_requests(1)[0]))

    async def unpaused_logprobs():
        client = await tiny.pool._instances[0].ready_client()
        await client.resume()
        return await tiny.pool.prompt_logprobs([PROBE])

    assert tiny.run(unpaused_logprobs()) == before
    tiny.publish(tiny.start_tensors)  # and a good update heals all
    tiny.run(tiny.pool.generate(_requests(1)[0]))


def test_a_changed_byte_is_refused_by_the_tensors_name(vllm_tiny):
    vllm_tiny.publish(vllm_tiny.perturbed(3))
    info = vllm_tiny.write(vllm_tiny.start_tensors)
    name = "model.layers.1.mlp.down_proj.weight"
    vllm_tiny.segment.tensor(name).view(torch.int32)[3, 4] ^= 1
    _refused(vllm_tiny, info, vllm_tiny.version, f"checksums.*{name}")


def test_a_version_that_is_being_written_is_refused(vllm_tiny):
    vllm_tiny.publish(vllm_tiny.perturbed(3))
    info = vllm_tiny.write(vllm_tiny.start_tensors)
    vllm_tiny.segment.begin(vllm_tiny.version + 1)
    _refused(vllm_tiny, info, vllm_tiny.version, "writing version")


def test_a_truncated_segment_is_refused(vllm_tiny):
    vllm_tiny.publish(vllm_tiny.perturbed(3))
    shapes = [(name, tuple(tensor.shape)) for name, tensor in vllm_tiny.start_tensors.items()]
    segment = WeightSegment.create(SegmentLayout.plan(shapes, "fp32"))
    try:
        info = write_version(segment, vllm_tiny.start_tensors, vllm_tiny.version)
        os.truncate(segment.path, segment.layout.total_bytes - 4096)
        _refused(vllm_tiny, info, vllm_tiny.version, "bytes, it has")
    finally:
        segment.close()
        segment.unlink()


def test_another_dtype_is_refused(vllm_tiny):
    vllm_tiny.publish(vllm_tiny.perturbed(3))
    shapes = [(name, tuple(tensor.shape)) for name, tensor in vllm_tiny.start_tensors.items()]
    segment = WeightSegment.create(SegmentLayout.plan(shapes, "bf16"))
    try:
        info = write_version(segment, vllm_tiny.start_tensors, vllm_tiny.version)
        _refused(vllm_tiny, info, vllm_tiny.version, "float32: the trainers cast; they sent bf16")
    finally:
        segment.close()
        segment.unlink()


@pytest.mark.parametrize(
    ("left_out", "named"),
    [("layers.1.", r"layers\.1\."), ("layers.1.self_attn.k_proj", r"layers\.1\.self_attn\.qkv_proj")],
)
def test_a_missing_tensor_is_named_and_the_next_update_is_whole(vllm_tiny, reference, left_out, named):
    """A layer without any of its tensors, or without one of them, is not taken for a loaded one, neither now nor in the
    next update."""
    part = {name: tensor for name, tensor in vllm_tiny.start_tensors.items() if left_out not in name}
    shapes = [(name, tuple(tensor.shape)) for name, tensor in part.items()]
    segment = WeightSegment.create(SegmentLayout.plan(shapes, "fp32"))
    try:
        info = write_version(segment, part, 1)
        with pytest.raises(EngineError, match=f"not all came for.*{named}"):
            vllm_tiny.run(vllm_tiny.pool.update_weights(info, 1))
    finally:
        segment.close()
        segment.unlink()
    weights = vllm_tiny.perturbed(4)
    vllm_tiny.publish(weights)
    (logprobs,) = vllm_tiny.run(vllm_tiny.pool.prompt_logprobs([PROBE]))
    assert _gap(logprobs, reference(weights, PROBE)) < 1e-4


def test_kill_9_in_the_middle_of_64_requests(vllm_tiny, reference):
    """All answers come, complete and from the current weights; only what was unfinished is sent again."""
    weights = vllm_tiny.perturbed(5)
    version = vllm_tiny.publish(weights)
    restarts, resent = vllm_tiny.pool.restarts, vllm_tiny.pool.stats().num_resent
    pids = vllm_tiny.pool.pids
    short, long = _requests(16, max_tokens=2), _requests(48, max_tokens=300)

    async def kill_in_the_middle():
        early = asyncio.gather(*(vllm_tiny.pool.generate(request) for request in short))
        late = asyncio.gather(*(vllm_tiny.pool.generate(request) for request in long))
        await early
        os.kill(pids[1], signal.SIGKILL)  # the engine core
        return await late

    generations = vllm_tiny.run(kill_in_the_middle(), seconds=200)
    assert vllm_tiny.pool.restarts == restarts + 1
    assert 0 < vllm_tiny.pool.stats().num_resent - resent <= 48
    for request, generation in zip(long, generations, strict=True):
        assert len(generation.token_ids) == 300
        assert [span.version for span in generation.versions] == [version]
        tokens = request.token_ids + generation.token_ids
        assert _gap(generation.logprobs, reference(weights, tokens)[len(request.token_ids) :]) < 1e-3
    assert all(_is_reaped(pid) for pid in pids)


def test_a_stopped_engine_is_noticed_and_waits_for_the_announced_update(vllm_tiny, reference):
    """A vLLM that hangs while the segment is being overwritten is restarted, loads nothing of it, and answers from the
    new version alone."""
    weights = vllm_tiny.perturbed(6)
    vllm_tiny.publish(vllm_tiny.start_tensors)
    restarts, pids = vllm_tiny.pool.restarts, vllm_tiny.pool.pids
    vllm_tiny.run(vllm_tiny.pool.announce_update())
    vllm_tiny.segment.begin(vllm_tiny.version + 1)
    vllm_tiny.segment.tensor("lm_head.weight").fill_(7)
    os.kill(pids[1], signal.SIGSTOP)  # the engine core, which runs the model
    stopped = time.monotonic()

    async def restarted_then_updated():
        response = asyncio.ensure_future(vllm_tiny.pool.generate(_requests(1)[0]))
        while vllm_tiny.pool.restarts == restarts:
            await asyncio.sleep(0.1)
        noticed = time.monotonic() - stopped
        await vllm_tiny.pool._instances[0].ready_client()
        await asyncio.sleep(0.3)
        assert not response.done()
        info = vllm_tiny.write(weights)
        await vllm_tiny.pool.update_weights(info, vllm_tiny.version)
        return noticed, await response

    noticed, generation = vllm_tiny.run(restarted_then_updated(), seconds=200)
    assert noticed < 45  # 6 s, plus the processes that spin while they wait for the stopped one
    assert [span.version for span in generation.versions] == [vllm_tiny.version]
    expected = reference(weights, (3, 5, 0, *generation.token_ids))[3:]
    assert _gap(generation.logprobs, expected) < 1e-4
    assert all(_is_reaped(pid) for pid in pids)
