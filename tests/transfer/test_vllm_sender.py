"""The senders over vLLM's ipc and nccl backends, as far as a CPU goes: vLLM's own classes take what we make, its
trainer engines make the calls we answer, and its packing gives back our tensors. What moves bytes between GPUs has not
run."""

import inspect
import json
import time
from collections.abc import Coroutine, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from safetensors.torch import load_file
from torch.multiprocessing.reductions import rebuild_cuda_tensor
from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
from vllm.distributed.weight_transfer.base import TrainerWeightTransferEngine, VLLMWeightSyncClient
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import (
    IPCTrainerWeightTransferEngine,
    IPCWeightTransferEngine,
    IPCWeightTransferInitInfo,
)
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo, worker_init_payload
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLTrainerWeightTransferEngine,
    NCCLWeightTransferEngine,
)
from vllm.distributed.weight_transfer.packed_tensor import pack_tensors, packed_nccl_broadcast_producer, unpack_tensor

from megatron_k15.config import ParallelConfig
from megatron_k15.engines.ipc_handles import FIELDS, from_json, to_json
from megatron_k15.engines.ipc_receiver import JsonIpcReceiver, read_update_info
from megatron_k15.engines.update_control import UpdateControl
from megatron_k15.engines.weight_senders import (
    TensorSource,
    ipc_init_info,
    nccl_init_info,
    open_nccl,
    wait_for_other_side,
)
from megatron_k15.errors import ConfigError, TransferError
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapping import weight_rules
from megatron_k15.parallel.context import ParallelContext
from megatron_k15.parallel.platform import Platform
from megatron_k15.transfer.vllm_sender import VllmSender
from tests.models.tiny_models import build

# What torch 2.13 gives for a flat buffer of 4096 bytes, 512 bytes into its CUDA allocation.
HANDLE = (
    torch.Tensor,
    torch.Size([4096]),
    (1,),
    0,
    torch.storage.TypedStorage,
    torch.uint8,
    3,
    b"\x01c" + bytes(range(64)),
    4096,
    512,
    False,
    b"/torch_123_456",
    7,
    bytes(range(64)),
    True,
)


class RecordingPool:
    """Stands where the pool does, and writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    async def open_transfer(self, init_infos: Any) -> None:
        self.calls.append(("open", init_infos))

    async def begin_update(self) -> None:
        self.calls.append(("begin", None))

    async def load_part(self, update_info: Any) -> None:
        self.calls.append(("part", update_info))

    async def finish_update(self, version: int) -> None:
        self.calls.append(("finish", version))


def run_now(coroutine: Coroutine[Any, Any, None], waiting_for: str) -> None:
    with pytest.raises(StopIteration):
        coroutine.send(None)


@pytest.fixture
def pool() -> RecordingPool:
    return RecordingPool()


@pytest.fixture
def control(pool: RecordingPool) -> UpdateControl:
    return UpdateControl(pool, run_now, tensor_parallel_size=2, num_engines=3)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TensorSource:
    model_dir = build(tmp_path_factory.mktemp("sender") / "model", "qwen3", vocab_size=259)
    tensors = load_file(model_dir / "model.safetensors")
    shapes = [(rule.hf_name, rule.hf_shape) for rule in weight_rules(Architecture.from_hf(model_dir))]

    def one_pass() -> Iterator[tuple[str, torch.Tensor]]:
        return ((name, tensors[name].to(torch.bfloat16)) for name, _ in shapes)

    return TensorSource(shapes, torch.bfloat16, one_pass)


def test_handles_have_the_fields_that_torch_rebuilds_from() -> None:
    assert tuple(inspect.signature(rebuild_cuda_tensor).parameters) == FIELDS


def test_handles_survive_json_unchanged() -> None:
    """Equal too: vLLM maps a buffer once and finds it again, part after part, by these values."""
    sent = json.loads(json.dumps(to_json({"GPU-a": HANDLE})))
    assert from_json(sent) == {"GPU-a": HANDLE}


def test_a_handle_of_anything_but_bytes_is_not_sent() -> None:
    with pytest.raises(AssertionError):
        to_json({"GPU-a": (*HANDLE[:5], torch.float32, *HANDLE[6:])})


def test_the_receiver_makes_vllms_update_info_and_reads_no_pickle() -> None:
    update = {"names": ["a"], "dtype_names": ["bfloat16"], "shapes": [[2]], "tensor_sizes": [4]}
    info = read_update_info({**update, "ipc_handles": to_json({"GPU-a": HANDLE})})
    assert info.ipc_handles == {"GPU-a": HANDLE}
    assert info.tensor_sizes == [4]
    with pytest.raises(ValueError, match="pickles are not read"):
        read_update_info({**update, "ipc_handles_pickled": "gASVAAAA"})
    with pytest.raises(ValueError, match="must have the fields"):
        read_update_info({**update, "ipc_handles": {"GPU-a": {"size": 4}}})


def test_vllm_still_calls_what_we_override() -> None:
    ours, theirs = JsonIpcReceiver.parse_update_info, IPCWeightTransferEngine.parse_update_info
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    assert "self.parse_update_info(update_info)" in inspect.getsource(IPCWeightTransferEngine.update_weights)


def test_update_control_is_the_client_that_vllm_asks_for(control: UpdateControl) -> None:
    assert isinstance(control, VLLMWeightSyncClient)
    for name, ours in inspect.getmembers(UpdateControl, inspect.isfunction):
        if not name.startswith("_"):
            theirs = getattr(VLLMWeightSyncClient, name)
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name


def test_init_info_is_what_vllms_engines_take(source: TensorSource, control: UpdateControl) -> None:
    ipc, nccl = ipc_init_info(source, 0), nccl_init_info(source, 0, port=29500, num_workers=control.num_workers)
    assert ipc.is_sender
    assert nccl.is_sender
    assert not nccl_init_info(source, 1, port=0, num_workers=0).is_sender
    assert nccl.world_size == 7  # rank 0 of the trainer, 3 instances x 2 workers
    assert issubclass(IPCTrainerWeightTransferEngine, TrainerWeightTransferEngine)
    for engine, info in ((IPCTrainerWeightTransferEngine, ipc), (NCCLTrainerWeightTransferEngine, nccl)):
        inspect.signature(engine.trainer_init).bind(info, client=control, source=source)
        inspect.signature(engine.send_weights).bind(None)
        inspect.signature(engine.shutdown).bind(None)
        assert engine.init_info_cls is type(info)
        assert WeightTransferTrainerFactory._registry[info.backend]() is engine
    assert IPCWeightTransferInitInfo(packed=ipc.packed).packed
    inspect.signature(PyNcclCommunicator.broadcast).bind(None, torch.zeros(1), src=0, stream=None)
    inspect.signature(packed_nccl_broadcast_producer).bind(
        iterator=iter(source), group=None, src=0, post_iter_func=None, buffer_size_bytes=1, num_buffers=2
    )


def test_each_instance_gets_its_own_nccl_ranks(control: UpdateControl, pool: RecordingPool) -> None:
    info = NCCLWeightTransferInitInfo(master_address="127.0.0.1", master_port=1, rank_offset=1, world_size=7)
    control.init_weight_transfer_engine(worker_init_payload(info))
    ((_, infos),) = pool.calls
    made = [NCCLWeightTransferEngine.init_info_cls(**info) for info in json.loads(json.dumps(infos))]
    assert [info.rank_offset for info in made] == [1, 3, 5]


def test_an_update_in_parts_reaches_the_pool_as_json(control: UpdateControl, pool: RecordingPool) -> None:
    """The payload is made by vLLM's own ipc sender."""
    sender = object.__new__(IPCTrainerWeightTransferEngine)
    TrainerWeightTransferEngine.__init__(sender, client=control, source=None)
    control.version = 4
    control.start_weight_update()
    for name in ("a", "b"):
        sender._do_send([name], ["bfloat16"], [[2]], {"GPU-a": HANDLE}, tensor_sizes=[4])
    control.finish_weight_update()
    assert [call for call, _ in pool.calls] == ["begin", "part", "part", "finish"]
    assert pool.calls[-1] == ("finish", 4)
    received = read_update_info(json.loads(json.dumps(pool.calls[2][1])))
    assert (received.names, received.ipc_handles) == (["b"], {"GPU-a": HANDLE})


def test_metadata_and_tensors_agree_by_vllms_own_check(source: TensorSource) -> None:
    metadata = source.metadata()
    sent = list(NCCLTrainerWeightTransferEngine._checked_iter(source, metadata))
    assert [name for name, _ in sent] == [meta.name for meta in metadata]


def test_vllms_packing_gives_our_tensors_back(source: TensorSource) -> None:
    iterator, unpacked, num_parts = iter(source), {}, 0
    while (part := pack_tensors(iterator, lambda item: item[1], 40_000)) is not None:
        unpacked |= dict(unpack_tensor(**asdict(part)))
        num_parts += 1
    assert num_parts > 2
    expected = dict(source)
    assert list(unpacked) == list(expected)
    assert all(torch.equal(unpacked[name], tensor) for name, tensor in expected.items())


def test_other_ranks_take_part_in_the_gather_and_send_nothing(source: TensorSource) -> None:
    """vLLM's own nccl engine, on a trainer rank that is not the sender."""
    num_passed = 0

    def counted() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal num_passed
        for pair in source:
            num_passed += 1
            yield pair

    metadata = source.metadata()
    engine = open_nccl(
        TensorSource([(meta.name, meta.shape) for meta in metadata], torch.bfloat16, counted), 1, None, limit_seconds=1
    )
    engine.send_weights()
    engine.send_weights()
    engine.shutdown()
    assert num_passed == 2 * len(metadata)


def test_a_buffer_holds_the_largest_tensor(source: TensorSource) -> None:
    assert ipc_init_info(source, 0).packed_buffer_size_bytes == 512 * 2**20
    large = TensorSource([("a", (1 << 20, 1024)), ("b", (3,))], torch.bfloat16, lambda: iter(()))
    assert nccl_init_info(large, 0, port=1, num_workers=1).packed_buffer_size_bytes == 2 << 30


def test_waiting_for_vllm_ends_with_its_error_or_the_limit(control: UpdateControl) -> None:
    answers = iter((False, True))
    wait_for_other_side(lambda: next(answers), control, 5.0)
    with pytest.raises(TransferError, match=r"within 0\.01 s"):
        wait_for_other_side(lambda: False, control, 0.01)
    control.error = RuntimeError("out of memory")
    started = time.monotonic()
    with pytest.raises(TransferError, match="out of memory"):
        wait_for_other_side(lambda: False, control, 60.0)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("backend", ["ipc", "nccl"])
def test_on_cpus_it_is_refused(backend: Any, control: UpdateControl, tmp_path: Path) -> None:
    architecture = Architecture.from_hf(build(tmp_path / "model"))
    context = ParallelContext(
        platform=Platform(name="cpu", device=torch.device("cpu"), backend="gloo"),
        config=ParallelConfig(),
        groups=ProcessGroupCollection(),
        **{"rank": 0, "tensor_rank": 0, "pipeline_rank": 0, "data_rank": 0},
        **{"world_size": 1, "tensor_size": 1, "pipeline_size": 1, "data_size": 1},
    )
    with pytest.raises(ConfigError, match=f"transfer.backend={backend} needs GPUs"):
        VllmSender([], architecture, context, dtype="bf16", backend=backend, control=control, timeout_seconds=1.0)
