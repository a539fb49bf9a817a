"""A weight version of SmolLM2-135M from the trainer into vLLM: the copies against memcpy, the whole against vLLM's own.

`copies_of_memcpy`: bytes/s of the trainer's copies into the persistent shared segment, over those of one `copy_` of as
many bytes between two touched buffers, with the same threads. 1 is memory bandwidth.

`ratio`: seconds of a whole publish (copies, checksums on both sides, pause, load, resume, cached keys and values
dropped) over vLLM's own reload of the same tensors inside the same server: its `reload_weights`, by one
`/collective_rpc`, from a safetensors file in /dev/shm. vLLM checks nothing, and leaves the packed copy of a tied output
head as it was. Writing that file (2.7 GB/s at best) is not counted.

All are medians over rounds in which the steps take turns. Prints one JSON line.
`python benchmarks/weight_publish.py [--dtype bf16] [--repeats N]`
"""

import argparse
import contextlib
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch
from model_copy import copy_model
from rounds import Step, machine, medians, ratio, timed_rounds

from megatron_k15.config import EngineConfig, ParallelConfig
from megatron_k15.engines.pool import EnginePool
from megatron_k15.engines.weight_segment import SHARED_MEMORY_DIR
from megatron_k15.event_loop import EventLoopThread
from megatron_k15.master import Timer
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.hf_files import HfWeights
from megatron_k15.models.loading import load_hf_weights
from megatron_k15.models.package_model import resolve_model
from megatron_k15.models.policy import build_policy
from megatron_k15.parallel.context import ParallelContext, initialize
from megatron_k15.parallel.platform import DTYPES
from megatron_k15.transfer.publisher import Publisher

LIMIT_SECONDS = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="package:smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr), ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shared = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=SHARED_MEMORY_DIR)))
        context = stack.enter_context(initialize(ParallelConfig(), seed=0))
        # One copy for all: vLLM starts from it, the trainer loads it, and vLLM reloads it.
        model_dir = copy_model(resolve_model(arguments.model), shared / "model", DTYPES[arguments.dtype])
        transfer = Transfer(model_dir, arguments.dtype, context, stack, log_dir=work)
        result = _measure(transfer, arguments)
    print(json.dumps(result))


def _measure(transfer: "Transfer", arguments: argparse.Namespace) -> dict[str, object]:
    source = torch.ones(transfer.num_bytes, dtype=torch.uint8)
    target = torch.ones_like(source)

    def memcpy(timer: Timer) -> None:
        target.copy_(source)

    steps: dict[str, Step] = {
        "memcpy": memcpy,
        "copies": lambda timer: transfer.publisher.copy_slices(),
        "vllm_reload": transfer.reload,
        "publish": transfer.publish,
    }
    records = timed_rounds(steps, arguments.repeats)
    return {
        "benchmark": "weight_publish",
        "ratio": ratio(records, "publish", "vllm_reload"),
        "baseline": "vLLM's reload_weights from safetensors in /dev/shm",
        "copies_of_memcpy": ratio(records, "memcpy", "copies"),
        "seconds": medians(records),
        "bytes": transfer.num_bytes,
        "dtype": arguments.dtype,
        "repeats": arguments.repeats,
        **machine(),
    }


class Transfer:
    """Both ends, as a run builds them on one rank."""

    def __init__(
        self, model_dir: Path, dtype: str, context: ParallelContext, stack: ExitStack, *, log_dir: Path
    ) -> None:
        architecture = Architecture.from_hf(model_dir)
        chunks = build_policy(architecture, context, dtype=dtype)
        load_hf_weights(chunks, HfWeights.open(model_dir, architecture), architecture, context)
        self.publisher = stack.enter_context(Publisher(chunks, architecture, context, dtype=dtype))
        self.num_bytes = sum(slot.num_bytes for slot in self.publisher.segment.layout.slots)
        self._model_dir = model_dir
        self._loop = stack.enter_context(EventLoopThread())
        self._pool = EnginePool(EngineConfig(max_model_len=128), model_dir=model_dir, dtype=dtype, log_dir=log_dir)
        stack.callback(lambda: self._run(self._pool.stop()))
        self._run(self._pool.start())
        self._run(self._pool.init_weight_transfer({}))
        self._version = 0

    def publish(self, timer: Timer) -> None:
        self._version += 1
        with timer.phase("publish_write"):
            self._run(self._pool.announce_update())
            info = self.publisher.publish(self._version)
        with timer.phase("publish_load"):
            self._run(self._pool.update_weights(info, self._version))

    def reload(self, timer: Timer) -> None:
        self._run(self._reload())

    async def _reload(self) -> None:
        client = await self._pool._instances[0].ready_client()
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(self._model_dir)}}
        await client.call("POST", "/collective_rpc", body, limit_seconds=LIMIT_SECONDS)

    def _run(self, coroutine):
        return self._loop.run(coroutine, seconds=LIMIT_SECONDS, waiting_for="vLLM")


if __name__ == "__main__":
    main()
