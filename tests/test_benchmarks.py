"""Each benchmark runs on a tiny model and prints one JSON line with figures that can be true. No time is asserted."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import tiny_tensors
from tests.sandbox.running_service import LACKS

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SMALL_TRAINER = ("--num-sequences", "3", "--num-prompts", "2", "--responses-per-prompt", "2")
SMALL_ITERATION = ("--num-prompts", "2", "--responses-per-prompt", "2", "--response-tokens", "6")


def _run(name: str, *arguments: object, repeats: int = 1) -> dict:
    """Its JSON line; anything else on standard output fails."""
    words = map(str, (BENCHMARKS / name, "--repeats", repeats, *arguments))
    command = [sys.executable, "-W", "ignore", *words]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def _positive(values: dict[str, float]) -> bool:
    return bool(values) and all(math.isfinite(value) and value >= 0 for value in values.values())


def test_trainer_throughput(tiny_model_dir):
    result = _run("trainer_throughput.py", "--model", tiny_model_dir, "--dtype", "bf16", *SMALL_TRAINER)
    assert result["dtype"] == "bf16"
    assert result["mixed"]["num_sequences"] == 3
    assert result["mixed"]["num_tokens"] == 32 + 144 + 256
    assert result["shared"]["num_sequences"] == 4
    for name in ("mixed", "shared"):
        seconds = result[name]["seconds"]
        assert _positive(seconds)
        assert result[name]["ratio"] == pytest.approx(seconds["transformers"] / seconds["trainer"], rel=0.1)


def test_weight_publish(tiny_model_dir):
    result = _run("weight_publish.py", "--model", tiny_model_dir)
    seconds = result["seconds"]
    assert _positive(seconds)
    assert result["ratio"] == pytest.approx(seconds["publish"] / seconds["vllm_reload"], rel=0.1)
    assert result["bytes"] == sum(tensor.numel() * 4 for tensor in tiny_tensors(tiny_model_dir).values())
    assert seconds["publish"] >= seconds["publish_load"]


def test_rl_iteration(tiny_model_dir):
    result = _run("rl_iteration.py", "--model", tiny_model_dir, *SMALL_ITERATION)
    seconds = result["seconds"]
    assert _positive(seconds)
    assert result["num_response_tokens"] == 2 * 2 * 6
    phases = sum(seconds[name] for name in ("ours_rollout", "ours_train", "ours_publish"))
    assert seconds["ours"] == pytest.approx(phases, rel=0.05)
    assert seconds["floor"] == pytest.approx(seconds["floor_generate"] + seconds["floor_train"], rel=0.05)
    assert result["ratio"] == pytest.approx(seconds["ours"] / seconds["floor"], rel=0.05)


def test_fused_loss():
    result = _run(
        "fused_loss.py", "--size", "tiny", "--steps", "known,one_chunk,recomputed,cross_entropy,eager,chunked"
    )
    assert _positive(result["seconds"])
    assert set(result["ratio"]) == set(result["mib"]) == set(result["seconds"]) - {"products"}
    for name, value in result["ratio"].items():
        assert value > 0, name


def test_convert(tiny_model_dir, tmp_path):
    result = _run("convert.py", "--model", tiny_model_dir, "--work", tmp_path)
    assert _positive(result["seconds"])
    assert result["bytes"] == (tiny_model_dir / "model.safetensors").stat().st_size
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(bool(LACKS), reason=LACKS)
def test_sandbox():
    result = _run("sandbox.py", "--leak-runs", "8", repeats=4)
    assert _positive(result["p50_seconds"])
    assert set(result["growth"]) == set(result["runs_per_second"]) == {"bubblewrap", "crun"}
    assert all(value > 0 for value in result["cpu_seconds_per_run"].values())
    assert all(growth["mounts"] == growth["cgroups"] == 0 for growth in result["growth"].values())


def test_colocate_swap(tiny_model_dir, tmp_path):
    picture = tmp_path / "swap.png"
    result = _run("colocate_swap.py", "--model", tiny_model_dir, "--warm-up", "1", "--png", picture)
    assert _positive(result["seconds"])
    assert 0 < result["ratio"] < 1
    assert list(result["resident_mib"]) == ["release", "train", "offload", "transfer", "rollout"]
    # The state after the release: the KV cache of 1 GiB is gone from vLLM.
    assert result["both_resident_mib"] - sum(result["resident_mib"]["release"].values()) > 900
    assert max(result["growth"][f"{side}_descriptors"] for side in ("trainer", "vllm")) <= 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_long_tail(tiny_model_dir, tmp_path):
    small = ("--prompts", "2", "--responses", "2", "--max-tokens", "60", "--budget", "20", "--instances", "1")
    result = _run("long_tail.py", "--model", tiny_model_dir, "--speeds", tmp_path / "speeds.json", *small)
    assert list(result["settings"]) == ["1 x no budget", "1 x 20"]
    without, budget = result["settings"].values()
    assert result["ratio"] == pytest.approx(budget["tokens_per_second"] / without["tokens_per_second"], rel=0.05)
    for setting in (without, budget):
        assert setting["error"] == pytest.approx(setting["predicted_seconds"] / setting["seconds"] - 1, abs=0.05)
        assert 0 < setting["utilisation"] <= 1
    assert json.loads((tmp_path / "speeds.json").read_text()) == result["speeds"]


def test_math_reward():
    result = _run("math_reward.py", "--every", "30")
    assert _positive(result["seconds"])
    assert result["accuracy"]["rule"] == 1.0
    assert result["left_to_math_verify"] < result["num_pairs"]["rule"]
    rates = result["pairs_per_second"]
    assert result["ratio"] == pytest.approx(rates["rule"] / rates["math_verify"], rel=0.05)


def test_packing():
    result = _run("packing.py", "--num-sequences", "5000")
    assert result["num_packs"] == result["fewest_packs"]
    assert 0.99 < result["fill"] <= 1
    assert _positive(result["seconds"])
    assert result["python_over_compiled"] > 0


def test_merge(tiny_model_dir):
    result = _run("merge.py", "--model", tiny_model_dir)
    assert _positive(result["seconds"])
    # A tiny model: what is left is Python and NumPy.
    assert 0 < result["peak_mib"]["stream"] < result["peak_mib"]["merge"] < 96
