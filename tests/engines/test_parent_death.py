"""A trainer killed by `kill -9`: vLLM, here with two tensor-parallel workers, goes with it and leaves nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from megatron_k15.engines.weight_segment import remove_stale_segments
from tests.conftest import make_tiny_model

PARENT = """
import asyncio, json, sys
from pathlib import Path
import torch
from megatron_k15.engines.pool import EnginePool
from megatron_k15.engines.types import GenerateRequest
from megatron_k15.engines.weight_segment import SegmentLayout, WeightSegment
from tests.conftest import tiny_engine_config, tiny_tensors, write_version

async def main(model_dir, log_dir):
    pool = EnginePool(tiny_engine_config(tensor_parallel_size=2), model_dir=model_dir, dtype="fp32", log_dir=log_dir)
    seen = []
    await pool.start(seen.append)
    assert any(text.startswith("vLLM 0: loading, ") for text in seen), seen
    assert "ready after" in seen[-1], seen
    tensors = {name: 1.5 * tensor for name, tensor in tiny_tensors(model_dir).items()}
    segment = WeightSegment.create(SegmentLayout.plan([(n, tuple(t.shape)) for n, t in tensors.items()], "fp32"))
    for version in (1, 2):
        await pool.update_weights(write_version(segment, tensors, version), version)
    (logprobs,) = await pool.prompt_logprobs([(5, 17, 90, 201)])
    print(json.dumps({"logprobs": logprobs, "pids": pool.pids, "segment": str(segment.path)}), flush=True)
    await asyncio.gather(*(pool.generate(GenerateRequest(token_ids=(1,), max_tokens=500)) for _ in range(8)))
    await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def _vllm_segments() -> set[Path]:
    return {path for path in Path("/dev/shm").iterdir() if path.name.startswith(("psm_", "vllm_dist_", "sem.mp-"))}


def _mapped(pids: list[int]) -> set[int]:
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in pids)
    return {int(line.split()[4]) for line in maps.splitlines() if "/dev/shm/" in line}


def test_a_killed_parent_leaves_no_process_and_no_shared_memory(tmp_path):
    """Also: weights arrive right at tensor parallel 2, where each worker takes its slices of the full tensors, and
    in a head that is tied to the embedding."""
    import json

    import torch
    from transformers import LlamaForCausalLM

    model_dir = make_tiny_model(tmp_path / "model", tied=True)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", PARENT, str(model_dir), str(tmp_path)]
    parent = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        line = parent.stdout.readline()
        assert line, (tmp_path / "vllm_0.log").read_text()[-3000:]
        answer = json.loads(line)
        (guardian,) = [p for p in psutil.Process(parent.pid).children() if "guardian" in " ".join(p.cmdline())]
        pids = [p.pid for p in guardian.children(recursive=True)]
        inodes = _mapped(pids)
        ours = {path for path in _vllm_segments() if path.stat().st_ino in inodes}
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    assert len(answer["pids"]) == 4  # API server, engine core, two workers
    assert set(answer["pids"]) < set(pids)
    assert any(path.name.startswith("vllm_dist_") for path in ours)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and (any(psutil.pid_exists(pid) for pid in [guardian.pid, *pids])):
        time.sleep(0.1)
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert [path for path in ours if path.exists()] == []
    remove_stale_segments()
    assert not Path(answer["segment"]).exists()

    model = LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    model.load_state_dict({name: 1.5 * tensor for name, tensor in model.state_dict().items()})
    ids = torch.tensor([[5, 17, 90, 201]])
    expected = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(answer["logprobs"][1:]), expected, atol=1e-4, rtol=0)
