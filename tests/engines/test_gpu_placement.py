"""No vLLM worker gets a GPU on which its way of receiving weights cannot work."""

import pytest

from megatron_k15.engines.gpu_placement import instance_gpus
from megatron_k15.errors import ConfigError


def test_ipc_takes_the_trainers_gpus() -> None:
    sizes = {"backend": "ipc", "num_gpus": 8, "num_local_ranks": 4}
    assert [instance_gpus(index, 2, **sizes) for index in range(2)] == [(0, 1), (2, 3)]
    with pytest.raises(ConfigError, match=r"at most 4 GPUs .* asks for 6"):
        instance_gpus(2, 2, **sizes)


def test_nccl_takes_free_gpus_first_and_never_that_of_rank_0() -> None:
    sizes = {"backend": "nccl", "num_gpus": 8, "num_local_ranks": 4}
    assert [instance_gpus(index, 2, **sizes) for index in range(3)] == [(6, 7), (4, 5), (2, 3)]
    with pytest.raises(ConfigError, match=r"at most 7 GPUs .* asks for 8"):
        instance_gpus(3, 2, **sizes)


def test_shared_memory_may_use_every_gpu() -> None:
    sizes = {"backend": "shared_memory", "num_gpus": 2, "num_local_ranks": 2}
    assert [instance_gpus(index, 1, **sizes) for index in range(2)] == [(1,), (0,)]
