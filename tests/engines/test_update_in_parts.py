"""A weight update in several parts, as vLLM's own backends send it, into a real vLLM; our receiver loads the part."""

import pytest
import torch

from megatron_k15.engines.server_command import server_environment
from megatron_k15.engines.update_control import UpdateControl
from megatron_k15.errors import EngineError
from tests.conftest import TinyVllm, tiny_engine_config

PROBE = [[1, 2, 3, 4, 5, 6, 7, 8]]


def _control(tiny: TinyVllm) -> UpdateControl:
    return UpdateControl(
        tiny.pool, lambda coroutine, waiting_for: tiny.run(coroutine), tensor_parallel_size=1, num_engines=1
    )


def test_an_update_in_parts_gives_the_same_weights_as_one_whole(vllm_tiny: TinyVllm) -> None:
    pool, control = vllm_tiny.pool, _control(vllm_tiny)
    vllm_tiny.publish(vllm_tiny.start_tensors)
    before = vllm_tiny.run(pool.prompt_logprobs(PROBE))
    changed = vllm_tiny.perturbed(seed=5)
    vllm_tiny.publish(changed)
    expected = vllm_tiny.run(pool.prompt_logprobs(PROBE))
    vllm_tiny.publish(vllm_tiny.start_tensors)
    try:
        info = vllm_tiny.write(changed)
        control.version = vllm_tiny.version
        control.start_weight_update()
        control.update_weights(info)
        control.update_weights(info)
        control.finish_weight_update()
        found = vllm_tiny.run(pool.prompt_logprobs(PROBE))
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-5, rtol=0)
        assert not torch.allclose(torch.tensor(found), torch.tensor(before), atol=1e-3)
    finally:
        pool._in_parts = False  # the pool is shared with other tests, which restart its vLLM


def test_a_refused_part_stops_the_pool_until_an_update_succeeds(vllm_tiny: TinyVllm) -> None:
    control = _control(vllm_tiny)
    try:
        control.start_weight_update()
        with pytest.raises(EngineError, match="a part of a weight update failed"):
            control.update_weights({"path": "/dev/shm/nothing", "version": 9, "dtype": "fp32", "tensors": []})
        assert isinstance(control.error, EngineError)
    finally:
        vllm_tiny.pool._in_parts = False
    vllm_tiny.publish(vllm_tiny.start_tensors)
    assert vllm_tiny.run(vllm_tiny.pool.prompt_logprobs(PROBE))


def test_an_instance_sees_its_own_gpus_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    scratch, config = tmp_path_factory.mktemp("scratch"), tiny_engine_config()
    all_of_them = server_environment(config, {}, scratch_dir=scratch, on_cpu=False)
    assert "CUDA_VISIBLE_DEVICES" not in all_of_them
    own = server_environment(config, {}, scratch_dir=scratch, on_cpu=False, gpus=(2, 3))
    assert own["CUDA_VISIBLE_DEVICES"] == "2,3"
    inherited = {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    among = server_environment(config, inherited, scratch_dir=scratch, on_cpu=False, gpus=(2, 3))
    assert among["CUDA_VISIBLE_DEVICES"] == "6,7"
