"""Weights trained under every layout, published, and loaded by vLLM at tensor parallel 1 and 2: both sides' logprobs of
the same tokens agree, before and after."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from megatron_k15.engines.pool import EnginePool
from megatron_k15.engines.weight_segment import SegmentLayout, WeightSegment
from megatron_k15.errors import TransferError
from megatron_k15.event_loop import EventLoopThread
from megatron_k15.transfer.probe import check_gap, logprob_gap
from tests.conftest import VOCAB_SIZE, TinyVllm, tiny_engine_config, write_version
from tests.training.sample_data import random_sequences

SEQUENCES = random_sequences(7, vocab_size=VOCAB_SIZE)
SEVEN = ("1x1x1", "2x1x1", "1x2x1", "2x2x1", "1x1x2", "2x1x2", "1x2x2")
TOLERANCE = 2e-5
"""Mean |difference| in nats between fp32 logprobs of the two code bases."""


def _engine_logprobs(loop: EventLoopThread, pool: EnginePool) -> list[list[float]]:
    tokens = [sequence.token_ids for sequence in SEQUENCES]
    found = loop.run(pool.prompt_logprobs(tokens), seconds=120, waiting_for="prompt logprobs")
    return [
        [value for value, seen in zip(values, sequence.loss_mask, strict=True) if seen]
        for values, sequence in zip(found, SEQUENCES, strict=True)
    ]


def test_every_layout_to_tensor_parallel_1(vllm_tiny: TinyVllm, layout_results: dict[str, dict]) -> None:
    vllm_tiny.publish(vllm_tiny.start_tensors)
    before = _engine_logprobs(vllm_tiny.loop, vllm_tiny.pool)
    assert logprob_gap(layout_results["1x1x1"]["logprobs"], before).mean < TOLERANCE
    for name, result in layout_results.items():
        vllm_tiny.publish(result["published"])
        after = _engine_logprobs(vllm_tiny.loop, vllm_tiny.pool)
        assert logprob_gap(result["logprobs_after"], after).mean < TOLERANCE, name
    # The step was large enough for the old weights to be noticed.
    assert logprob_gap(layout_results["1x1x1-adam"]["logprobs_after"], before).mean > 100 * TOLERANCE


@pytest.fixture(scope="module")
def tensor_parallel_2(
    tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[EventLoopThread, EnginePool]]:
    config = tiny_engine_config(tensor_parallel_size=2)
    pool = EnginePool(config, model_dir=tiny_model_dir, dtype="fp32", log_dir=tmp_path_factory.mktemp("vllm_logs"))
    with EventLoopThread() as loop:
        loop.run(pool.start(), seconds=300, waiting_for="vLLM to start")
        yield loop, pool
        loop.run(pool.stop(), seconds=60, waiting_for="vLLM to stop")


def test_the_seven_layouts_to_tensor_parallel_2(
    tensor_parallel_2: tuple[EventLoopThread, EnginePool], layout_results: dict[str, dict]
) -> None:
    loop, pool = tensor_parallel_2
    first = layout_results["1x1x1"]["published"]
    shapes = ((name, tuple(tensor.shape)) for name, tensor in first.items())
    segment = WeightSegment.create(SegmentLayout.plan(shapes, "fp32"))
    try:
        for version, name in enumerate(SEVEN, start=1):
            info = write_version(segment, layout_results[name]["published"], version)
            loop.run(pool.update_weights(info, version), seconds=120, waiting_for="an update")
            after = _engine_logprobs(loop, pool)
            assert logprob_gap(layout_results[name]["logprobs_after"], after).mean < TOLERANCE, name
    finally:
        segment.close()
        segment.unlink()


def test_two_swapped_layers_stop_the_run(vllm_tiny: TinyVllm, layout_results: dict[str, dict]) -> None:
    """Every byte arrives as sent, so no checksum notices; the probe does."""
    result = layout_results["1x1x1"]
    vllm_tiny.publish(_with_swapped_layers(result["published"]))
    gap = logprob_gap(result["logprobs_after"], _engine_logprobs(vllm_tiny.loop, vllm_tiny.pool))
    with pytest.raises(TransferError, match="after weight version 3 trainer and vLLM must agree"):
        check_gap(gap, None, "fp32", version=3)


def _with_swapped_layers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    other = {".layers.0.": ".layers.1.", ".layers.1.": ".layers.0."}
    swapped = {}
    for name, tensor in tensors.items():
        found = next((layer for layer in other if layer in name), None)
        swapped[name.replace(found, other[found]) if found else name] = tensor
    return swapped


def test_a_gap_that_is_not_a_number_stops_the_run() -> None:
    with pytest.raises(TransferError, match="must agree"):
        check_gap(logprob_gap([[float("nan")]], [[-1.0]]), None, "fp32", version=1)
