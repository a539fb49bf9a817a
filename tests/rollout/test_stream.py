"""In-flight updates on the real vLLM: weights change under long responses, which are cut, saved and go on."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from megatron_k15.replay.buffer import ReplayBuffer
from megatron_k15.rollout.sampling import Sampling
from megatron_k15.rollout.segments import new_groups
from megatron_k15.rollout.stream import ResponseStream
from megatron_k15.types import Prompt, SampledGroup, Trajectory

PROMPTS = [Prompt(id=f"p{index}", token_ids=(3, 5, 40 + index), text="", answer="") for index in range(2)]
NUM_TOKENS = 1500


def _no_text(token_ids: Sequence[int]) -> str:
    return ""


def _stream(tiny, buffer: ReplayBuffer) -> ResponseStream:
    sampling = Sampling(num_responses=2, max_tokens=NUM_TOKENS, ignore_eos=True)
    return ResponseStream(tiny.pool, sampling, decode=_no_text, run_seed=0, journal=buffer.journal)


def test_weights_change_under_responses_that_are_then_cut_saved_and_finished(vllm_tiny, tiny_model_dir, tmp_path):
    old, new = vllm_tiny.perturbed(1), vllm_tiny.perturbed(2)

    async def until_the_cut(buffer: ReplayBuffer, info: dict) -> list[SampledGroup]:
        stream = _stream(vllm_tiny, buffer)
        await vllm_tiny.pool.pause()
        stream.add(new_groups(PROMPTS, 2, 0))
        await vllm_tiny.freeze_under_way(4)
        await vllm_tiny.pool.update_weights(info, vllm_tiny.version)
        await vllm_tiny.sample_for_a_moment()
        groups = await stream.cut(1)
        await vllm_tiny.pool.resume()
        # Sampling goes on after a cut; here the run dies.
        await stream.close()
        return groups

    # Where the machine stalls before vLLM is paused, responses end by themselves: then once more.
    for attempt in range(5):
        folder = tmp_path / f"replay_{attempt}"
        buffer = ReplayBuffer(folder, run="r")
        first = vllm_tiny.publish(old)
        groups = vllm_tiny.run(until_the_cut(buffer, vllm_tiny.write(new)))
        if all(trajectory.is_open for group in groups for trajectory in group.trajectories):
            break
    else:
        raise AssertionError("no cut left all responses open")
    buffer.keep(groups)
    again = ReplayBuffer(folder, run="r")
    again.keep(groups)
    assert again.unfinished() == sorted(groups, key=lambda group: group.key)

    async def to_the_end() -> list[SampledGroup]:
        stream = _stream(vllm_tiny, again)
        stream.iteration = 1
        stream.add(again.unfinished())
        return [await stream.next_complete() for _ in PROMPTS]

    finished = vllm_tiny.run(to_the_end())
    trajectories = [trajectory for group in finished for trajectory in group.trajectories]
    assert [trajectory.num_response_tokens for trajectory in trajectories] == [NUM_TOKENS] * 4
    model = _model(tiny_model_dir)
    for trajectory in trajectories:
        versions = [segment.versions[0].version for segment in trajectory.segments]
        assert versions == sorted(versions)
        assert len(versions) >= 2, "a cut leaves at least two pieces"
        _check_logprobs(trajectory, model, {first: old, vllm_tiny.version: new})
    assert any(trajectory.oldest_version == first for trajectory in trajectories)


def _model(model_dir: Path):
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32)


@torch.no_grad()
def _check_logprobs(trajectory: Trajectory, model, weights: dict[int, dict[str, torch.Tensor]]) -> None:
    """Each segment's logprobs are those of its own version's weights, given all that stands before it."""
    ids = torch.tensor([trajectory.prompt_token_ids + trajectory.response_token_ids])
    start = len(trajectory.prompt_token_ids)
    for segment in trajectory.segments:
        model.load_state_dict(weights[segment.versions[0].version])
        end = start + len(segment.token_ids)
        logprobs = torch.log_softmax(model(ids).logits[0, start - 1 : end - 1], -1)
        expected = logprobs.gather(1, ids[0, start:end, None])[:, 0].tolist()
        assert segment.logprobs == pytest.approx(expected, abs=1e-4)
        start = end
