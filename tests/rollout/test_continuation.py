"""A response continued in m iterations is the response in one go, on the real vLLM (fp32, one sequence at a time)."""

from collections.abc import Sequence

import pytest
import torch

from megatron_k15.replay.buffer import ReplayBuffer
from megatron_k15.rollout.generation import generate_groups
from megatron_k15.rollout.sampling import Sampling
from megatron_k15.rollout.segments import new_groups
from megatron_k15.types import Prompt, SampledGroup, Trajectory
from tests.conftest import TinyVllm

NUM_TOKENS = 60
TIE = 1e-3
"""Logits closer than this may come out in either order: a continued response is a prefill, which sums in another
order than decoding does."""
PROMPTS = [Prompt(id=f"p{index}", token_ids=(3, 5, 40 + index), text="", answer="") for index in range(3)]


def _no_text(token_ids: Sequence[int]) -> str:
    return ""


def _respond(tiny: TinyVllm, prompt: Prompt, budget: int | None, buffer: ReplayBuffer) -> tuple[Trajectory, int]:
    """The whole response, through the replay buffer, and the number of iterations it took."""
    sampling = Sampling(num_responses=1, max_tokens=NUM_TOKENS, budget_tokens=budget, temperature=0.0, ignore_eos=True)
    (group,) = new_groups([prompt], 1, 0)
    iteration = 0

    async def advance(group: SampledGroup) -> SampledGroup:
        groups = generate_groups(
            tiny.pool, [group], sampling, decode=_no_text, run_seed=0, iteration=iteration, journal=buffer.journal
        )
        (after,) = [after async for after in groups]
        return after

    while True:
        group = tiny.run(advance(group))
        iteration += 1
        if group.is_complete:
            return group.trajectories[0], iteration
        buffer.keep([group])
        (group,) = buffer.unfinished()


@pytest.mark.parametrize("budget", [7, 20])
def test_continuing_gives_the_tokens_of_one_go(budget, vllm_tiny, tiny_model_dir, tmp_path):
    from transformers import LlamaForCausalLM

    weights = vllm_tiny.perturbed(3)
    version = vllm_tiny.publish(weights)
    model = LlamaForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    model.load_state_dict(weights)
    for prompt in PROMPTS:
        whole, once = _respond(vllm_tiny, prompt, None, ReplayBuffer(tmp_path / f"{prompt.id}-whole", run="r"))
        pieces, times = _respond(vllm_tiny, prompt, budget, ReplayBuffer(tmp_path / f"{prompt.id}-pieces", run="r"))
        assert (once, times) == (1, -(-NUM_TOKENS // budget))
        assert [len(segment.token_ids) for segment in pieces.segments[:-1]] == [budget] * (times - 1)
        assert pieces.finish_reason == whole.finish_reason == "length"
        assert {span.version for segment in pieces.segments for span in segment.versions} == {version}
        assert all(pieces.response_loss_mask)
        _same_up_to_a_tie(whole, pieces, model)
        _logprobs_are_the_models(pieces, model)


def _logits(model, trajectory: Trajectory) -> torch.Tensor:
    """[num_response_tokens, vocabulary]: row t predicts response token t."""
    ids = torch.tensor([trajectory.prompt_token_ids + trajectory.response_token_ids])
    with torch.no_grad():
        return model(ids).logits[0, len(trajectory.prompt_token_ids) - 1 : -1]


def _same_up_to_a_tie(whole: Trajectory, pieces: Trajectory, model) -> None:
    both = zip(whole.response_token_ids, pieces.response_token_ids, strict=True)
    different = next((index for index, (a, b) in enumerate(both) if a != b), None)
    if different is not None:
        first, second = _logits(model, whole)[different].topk(2).values.tolist()
        assert first - second < TIE, f"token {different} differs, and its top two logits are {first - second} apart"


def _logprobs_are_the_models(trajectory: Trajectory, model) -> None:
    logprobs = torch.log_softmax(_logits(model, trajectory), -1)
    expected = logprobs.gather(1, torch.tensor(trajectory.response_token_ids)[:, None])[:, 0].tolist()
    assert trajectory.response_logprobs == pytest.approx(expected, abs=1e-4)


def test_many_groups_go_on_side_by_side(vllm_tiny, tmp_path):
    """Sampled at temperature 1 in two iterations under two weight versions: every piece names its version."""
    buffer = ReplayBuffer(tmp_path / "replay", run="r")
    sampling = Sampling(num_responses=3, max_tokens=16, budget_tokens=8, ignore_eos=True)

    async def advance(groups: list[SampledGroup], iteration: int) -> list[SampledGroup]:
        generated = generate_groups(
            vllm_tiny.pool,
            groups,
            sampling,
            decode=_no_text,
            run_seed=0,
            iteration=iteration,
            journal=buffer.journal,
        )
        return [group async for group in generated]

    versions = []
    groups = new_groups(PROMPTS, 3, 0)
    for iteration in range(2):
        versions.append(vllm_tiny.publish(vllm_tiny.perturbed(10 + iteration)))
        groups = sorted(vllm_tiny.run(advance(groups, iteration)), key=lambda group: group.key)
        buffer.keep(groups)
        if iteration == 0:
            assert buffer.unfinished() == groups
    assert all(group.is_complete for group in groups)
    for trajectory in (trajectory for group in groups for trajectory in group.trajectories):
        assert [segment.versions[0].version for segment in trajectory.segments] == versions
        assert [len(segment.token_ids) for segment in trajectory.segments] == [8, 8]
