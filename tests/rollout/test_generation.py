"""Groups leave as they finish, line up token by token, and a failure leaves nothing in flight.

The generator here is a few lines standing in for the pool, so that finishing orders can be chosen; the real pool is
driven through the same function in tests/test_train_rl.py.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from megatron_k15.engines.types import GenerateRequest, Generation
from megatron_k15.errors import EngineError
from megatron_k15.rollout.generation import generate_groups
from megatron_k15.rollout.sampling import Sampling
from megatron_k15.rollout.segments import new_groups, request_seed
from megatron_k15.types import Prompt, SampledGroup, SegmentKey, VersionSpan

PROMPTS = [Prompt(id=f"p{index}", token_ids=(1, index), text="", answer="") for index in range(3)]
SAMPLING = Sampling(num_responses=2, max_tokens=4)


class SlowestFirst:
    """Prompt i answers after 2 - i turns with i + 1 tokens; `failing` raises instead."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.num_running = 0
        self.requests: list[GenerateRequest] = []

    async def generate(self, request: GenerateRequest) -> Generation:
        index = request.token_ids[1]
        self.requests.append(request)
        self.num_running += 1
        try:
            await asyncio.sleep(0.02 * (2 - index))
            if request.request_key.startswith(self.failing or "never"):
                raise EngineError("vLLM died too often")
        finally:
            self.num_running -= 1
        count = index + 1
        spans = (VersionSpan(version=7, start=0, end=count),)
        return Generation(token_ids=tuple(range(count)), logprobs=(-0.5,) * count, finish_reason="stop", versions=spans)


async def _collect(pool: SlowestFirst) -> list[SampledGroup]:
    def decode(token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))

    new = new_groups(PROMPTS, SAMPLING.num_responses, 0)
    groups = generate_groups(pool, new, SAMPLING, decode=decode, run_seed=0, iteration=0)
    return [group async for group in groups]


def test_groups_leave_in_the_order_in_which_they_finish() -> None:
    groups = asyncio.run(_collect(SlowestFirst()))
    assert [group.prompt.id for group in groups] == ["p2", "p1", "p0"]
    assert all(group.is_complete for group in groups)
    prompt, trajectories = groups[0].prompt, groups[0].trajectories
    assert [trajectory.sample_index for trajectory in trajectories] == [0, 1]
    for trajectory in trajectories:
        assert trajectory.prompt_token_ids == prompt.token_ids
        assert trajectory.response_token_ids == (0, 1, 2)
        assert trajectory.response_logprobs == (-0.5, -0.5, -0.5)
        assert trajectory.response_loss_mask == (True, True, True)
        assert trajectory.oldest_version == 7
        assert trajectory.text == "0 1 2"


def test_every_request_has_a_seed_of_its_own_that_a_restart_repeats() -> None:
    first, second = SlowestFirst(), SlowestFirst()
    asyncio.run(_collect(first))
    asyncio.run(_collect(second))
    seeds = {request.request_key: request.seed for request in first.requests}
    assert len(set(seeds.values())) == len(PROMPTS) * SAMPLING.num_responses
    assert seeds == {request.request_key: request.seed for request in second.requests}


def test_a_seed_is_of_run_draw_prompt_sample_and_offset_but_not_of_the_iteration() -> None:
    key = SegmentKey(iteration=4, drawn_iteration=3, prompt_id="p0", sample_index=1, offset=0)
    changes = ({"drawn_iteration": 4}, {"prompt_id": "p1"}, {"sample_index": 0}, {"offset": 7})
    seeds = [request_seed(0, key), request_seed(1, key), *(request_seed(0, replace(key, **part)) for part in changes)]
    assert len(set(seeds)) == len(seeds)
    assert request_seed(0, replace(key, iteration=5)) == request_seed(0, key)


def test_a_failure_is_raised_and_leaves_nothing_in_flight() -> None:
    pool = SlowestFirst(failing="p1")
    with pytest.raises(EngineError, match="died too often"):
        asyncio.run(_collect(pool))
    assert pool.num_running == 0
