"""How vLLM is started: its command line and environment, from our config. Nothing is run here.

The choices that are not the user's are made here, each with its reason and, where speed is the reason, what was
measured (vLLM 0.32, SmolLM2-135M in fp32, 64 requests at once, 2 AVX2 cores).
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_k15.config import EngineConfig
from megatron_k15.engines.client import MODEL_NAME

CPU_KV_CACHE_BYTES = 1 << 30
"""Default on CPU. An explicit size is needed there: vLLM would otherwise take a share of the machine's memory, and
run the model once to measure the rest."""

WORKER_MEMORY = "megatron_k15.engines.worker_memory.WorkerMemory"

CPU_BATCHED_TOKENS = 2048
"""Tokens that one step of the model works on, at most."""

TORCHRUN_VARIABLES = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
                      "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT",
                      "OMP_NUM_THREADS", "CUDA_DEVICE_MAX_CONNECTIONS")  # fmt: skip
"""What torchrun and the launch scripts set for a trainer rank. vLLM would take them for its own; OMP_NUM_THREADS is 1
there, and one queue to the GPU is megatron-core's wish alone."""


def server_command(
    config: EngineConfig,
    *,
    model_dir: Path,
    dtype: str,
    socket_path: Path,
    backend: str,
    on_cpu: bool,
    seed: int,
    colocate: str = "off",
    runner: str = "generate",
) -> list[str]:
    """The command line of one instance.

    Args:
        dtype: `bf16` or `fp32`.
        socket_path: the Unix socket to listen on, in a directory that only this user may enter. vLLM's development
            endpoints know no key: whoever reaches them owns the engine, so there is no port for others to reach.
        backend: vLLM's name of the weight-transfer engine inside it.
        colocate: `colocate.mode`.
        runner: `generate`, or `pooling` for a model that gives scores.
    """
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model_dir), "--served-model-name", MODEL_NAME),
        *("--uds", str(socket_path)),
        *("--dtype", {"bf16": "bfloat16", "fp32": "float32"}[dtype]),
        *("--max-model-len", str(config.max_model_len)),
        *("--tensor-parallel-size", str(config.tensor_parallel_size)),
        *("--seed", str(seed), "--runner", runner),
        *("--disable-log-stats", "--disable-uvicorn-access-log"),
    ]
    if runner == "generate":
        command += [
            "--enable-scale-out",  # opens /inference/v1/generate: token ids in and out
            # Of the distribution the token was drawn from, after temperature: what the trainer compares with.
            *("--logprobs-mode", "processed_logprobs"),
            # A model's own generation_config.json may bring top_p or a repetition penalty: nothing is applied unasked.
            *("--generation-config", "vllm"),
            *("--weight-transfer-config", json.dumps({"backend": backend})),
            "--enable-prefix-caching" if config.enable_prefix_caching else "--no-enable-prefix-caching",
        ]
    if colocate == "sleep":
        # vLLM's own sleep mode is for GPUs; ours for CPUs is mixed into the worker.
        command += ["--worker-extension-cls", WORKER_MEMORY] if on_cpu else ["--enable-sleep-mode"]
    if colocate == "restart":
        # §2.6.3: real weights are not read from the disk, since the trainer's follow at once.
        command += ["--load-format", "dummy"]
    kv_cache_bytes = config.kv_cache_bytes or (CPU_KV_CACHE_BYTES if on_cpu else None)
    if kv_cache_bytes:
        command += ["--kv-cache-memory-bytes", str(kv_cache_bytes)]
    if on_cpu:
        # vLLM 0.32 takes a seeded request's random generator back after each partial prefill, by an operation that
        # CPU generators do not have: the engine dies. So prompts are prefilled whole.
        whole_prompts = max(config.max_model_len, CPU_BATCHED_TOKENS)
        command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(whole_prompts), "--enforce-eager"]
    else:
        command += ["--gpu-memory-utilization", str(config.gpu_memory_utilization)]
    return command


def server_environment(
    config: EngineConfig,
    inherited: Mapping[str, str],
    *,
    scratch_dir: Path,
    on_cpu: bool,
    gpus: Sequence[int] | None = None,
) -> dict[str, str]:
    """The environment of one instance: `inherited` without torchrun's marks, and ours.

    Args:
        gpus: numbers among the GPUs that `inherited` leaves visible; None leaves all.
    """
    kept = {
        key: value
        for key, value in inherited.items()
        if key not in TORCHRUN_VARIABLES and not key.startswith(("TORCHELASTIC_", "TORCH_NCCL_"))
    }
    ours = {
        "VLLM_SERVER_DEV_MODE": "1",  # opens /pause, /update_weights and their like
        "VLLM_PLUGINS": "megatron_k15",  # ours, and no other that happens to be installed
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        # Its own sockets, between its processes on this host, stay on this host.
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "TMPDIR": str(scratch_dir),  # rendezvous files and sockets, gone with the instance
    }
    if on_cpu:
        ours |= {
            # vLLM's own binding takes whole cores per worker and keeps one free: on few cores that halves the speed.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(threads_per_worker(config)),
            # Eager throughout: else g++ compiles a helper of the logprobs at the first request of every start (18 s).
            "TORCHDYNAMO_DISABLE": "1",
            # The model runs in the engine core's process, not in a third one that imports everything again: a start of
            # 16 to 19 s instead of 23. vLLM's reason for the third is that it binds threads to cores; here it does not.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    if gpus is not None:
        visible = inherited.get("CUDA_VISIBLE_DEVICES", "").split(",")
        ours["CUDA_VISIBLE_DEVICES"] = ",".join(visible[gpu] if visible != [""] else str(gpu) for gpu in gpus)
    return kept | ours


def threads_per_worker(config: EngineConfig) -> int:
    """Cores this process may use, divided over all workers of all instances."""
    return max(1, len(os.sched_getaffinity(0)) // (config.num_engines * config.tensor_parallel_size))
