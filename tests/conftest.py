"""One tiny model and one vLLM for all tests that want them."""

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from megatron_k15.config import EngineConfig
from megatron_k15.engines.pool import EnginePool
from megatron_k15.engines.weight_segment import SegmentLayout, WeightSegment, update_info
from megatron_k15.errors import K15Error
from megatron_k15.event_loop import EventLoopThread
from tests.workers import Scheduling, sort_by_length

Result = TypeVar("Result")
EOS = 256
VOCAB_SIZE = 323
"""Odd: megatron-core pads it, and tensor parallelism fills it unevenly."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    sort_by_length(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


class TinyVllm:
    """A running vLLM (fp32, tensor parallel 1) on `model_dir`. Its weights are whatever the last test published:
    publish what you need first."""

    def __init__(self, pool: EnginePool, loop: EventLoopThread, model_dir: Path) -> None:
        self.pool = pool
        self.loop = loop
        self.model_dir = model_dir
        self.start_tensors = tiny_tensors(model_dir)
        """Hugging Face name → fp32 tensor, as in model_dir."""
        shapes = ((name, tuple(tensor.shape)) for name, tensor in self.start_tensors.items())
        self.segment = WeightSegment.create(SegmentLayout.plan(shapes, "fp32"))
        self.version = 0

    def run(self, coroutine: Coroutine[Any, Any, Result], seconds: float = 120.0) -> Result:
        try:
            return self.loop.run(coroutine, seconds=seconds, waiting_for="vLLM in a test")
        except Exception:
            # A test that fails while sampling is paused must not take the next ones with it.
            with suppress(K15Error):
                self.loop.run(self.pool.resume(), seconds=30, waiting_for="vLLM to go on after a failed test")
            raise

    async def freeze_under_way(self, count: int) -> None:
        """With sampling paused and `count` requests sent: let them sample for a moment, and pause again."""
        while self.pool.stats().num_in_flight < count:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # from here into the engine
        await self.sample_for_a_moment()

    async def sample_for_a_moment(self) -> None:
        """With sampling paused. On a busy machine vLLM runs ahead of the server in front of it, by thousands of tokens:
        nothing that is seen from here says how far it has got, and requests may have ended."""
        await self.pool.resume()
        await asyncio.sleep(0.1)
        await self.pool.pause()

    def write(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Write and complete a new version in `segment`; returns what `update_weights` takes."""
        self.version += 1
        return write_version(self.segment, tensors, self.version)

    def publish(self, tensors: Mapping[str, torch.Tensor]) -> int:
        """Put vLLM on these weights; returns their version."""
        info = self.write(tensors)
        self.run(self.pool.update_weights(info, self.version))
        return self.version

    def perturbed(self, seed: int, scale: float = 0.02) -> dict[str, torch.Tensor]:
        """The start weights with noise: a model whose logprobs differ clearly."""
        noise = torch.Generator().manual_seed(seed)
        return {
            name: tensor + scale * torch.randn(tensor.shape, generator=noise)
            for name, tensor in self.start_tensors.items()
        }


def write_version(segment: WeightSegment, tensors: Mapping[str, torch.Tensor], version: int) -> dict[str, Any]:
    segment.begin(version)
    for name, tensor in tensors.items():
        segment.tensor(name).copy_(tensor)
    checksums = {name: segment.checksum(name) for name in tensors}
    segment.complete(version, checksums)
    return update_info(segment, version, checksums)


def tiny_tensors(model_dir: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(model_dir / "model.safetensors")


def make_tiny_model(directory: Path, *, tied: bool = False) -> Path:
    """A random Llama (4 layers, hidden 128, 4 heads of 32, 2 key-value heads, 323 token ids) with a byte tokenizer.

    Heads of 32: vLLM's CPU attention has no smaller ones. Token ids 0..255 are bytes, 256 ends a sequence, the rest
    have no text. `tied`: one matrix is both embedding and head.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab={**vocabulary, "<eos>": EOS}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(directory)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).float().save_pretrained(directory)
    return directory


def tiny_engine_config(**changes: Any) -> EngineConfig:
    return EngineConfig(**{"max_model_len": 512, "kv_cache_bytes": 1 << 26, "health_interval_seconds": 0.5, **changes})


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny_llama"))


@pytest.fixture(scope="session")
def vllm_tiny(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyVllm]:
    """Started once (about 25 s), stopped at the end of the session."""
    config = tiny_engine_config(hang_timeout_seconds=6.0, max_model_len=2048)
    pool = EnginePool(config, model_dir=tiny_model_dir, dtype="fp32", log_dir=tmp_path_factory.mktemp("vllm_logs"))
    with EventLoopThread() as loop:
        loop.run(pool.start(), seconds=300, waiting_for="vLLM to start")
        tiny = TinyVllm(pool, loop, tiny_model_dir)
        try:
            yield tiny
        finally:
            loop.run(pool.stop(), seconds=60, waiting_for="vLLM to stop")
            tiny.segment.close()
            tiny.segment.unlink()


@pytest.fixture(scope="session")
def layout_results(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """One training step of the tiny model under every layout of ranks."""
    from tests.training.layouts import run_layouts

    return run_layouts(tiny_model_dir, tmp_path_factory.mktemp("layouts"))
