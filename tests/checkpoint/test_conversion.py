"""HF → Megatron → HF keeps every bit; plain megatron-core loads what is in between; broken input leaves nothing."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_k15.checkpoint import conversion
from megatron_k15.checkpoint.conversion import hf_to_megatron, megatron_to_hf
from megatron_k15.errors import CheckpointError, ModelError
from megatron_k15.models.weight_files import SINGLE_FILE
from tests.launch import ROOT, run_ranks
from tests.models.tiny_models import LLAMA3_SCALING, build, change_config

VARIANTS = {
    "llama": {"family": "llama", "vocab_size": 251, "rope_scaling": LLAMA3_SCALING, "dtype": torch.bfloat16},
    "llama_tied": {"family": "llama", "tied": True, "sharded": True},
    "qwen2": {"family": "qwen2", "vocab_size": 257, "sharded": True, "dtype": torch.float16},
    "qwen2_tied": {"family": "qwen2", "tied": True, "vocab_size": 130},
    "qwen3": {"family": "qwen3", "head_dim": 24, "sharded": True, "tied": True, "dtype": torch.bfloat16},
    "mistral": {"family": "mistral", "num_kv_heads": 4},
}
SPLITS = [(1, 1), (2, 1), (1, 2), (2, 2)]


def read_weights(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}


def assert_same(left: Path, right: Path) -> None:
    a, b = read_weights(left), read_weights(right)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8)), name


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("piece_bytes", [conversion.PIECE_BYTES, 3000])
def test_there_and_back_is_bit_exact(
    tmp_path: Path, variant: str, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small pieces make tiny tensors fall into many chunks, as large ones do in 16 MiB."""
    monkeypatch.setattr(conversion, "PIECE_BYTES", piece_bytes)
    source = build(tmp_path / "hf", **VARIANTS[variant])
    for tensor_size, pipeline_size in SPLITS:
        megatron, back = tmp_path / f"m{tensor_size}{pipeline_size}", tmp_path / f"b{tensor_size}{pipeline_size}"
        hf_to_megatron(source, megatron, tensor_size=tensor_size, pipeline_size=pipeline_size)
        assert len(list(megatron.glob("*.distcp"))) == tensor_size * pipeline_size
        megatron_to_hf(megatron, back)
        assert_same(source, back)
        if (source / SINGLE_FILE).exists():
            assert (source / SINGLE_FILE).read_bytes() == (back / SINGLE_FILE).read_bytes()
        for path in source.glob("*.json"):
            if path.name != "model.safetensors.index.json":
                assert path.read_bytes() == (back / path.name).read_bytes()


def test_megatron_core_loads_it_at_any_layout_and_its_own_checkpoints_convert_back(tmp_path: Path) -> None:
    cases = {
        "llama": ({"family": "llama", "vocab_size": 251}, (2, 2)),
        "qwen2": ({"family": "qwen2", "tied": True, "sharded": True}, (1, 1)),
        "qwen3": ({"family": "qwen3", "head_dim": 24}, (2, 1)),
    }
    for name, (variant, (tensor_size, pipeline_size)) in cases.items():
        source = build(tmp_path / name / "hf", **variant)
        hf_to_megatron(source, tmp_path / name / "megatron", tensor_size=tensor_size, pipeline_size=pipeline_size)
    output = run_ranks(Path(__file__).with_name("ranks_conversion.py"), 4, str(tmp_path))
    for tensor_size, pipeline_size in SPLITS:
        assert f"loaded at {tensor_size}x{pipeline_size}" in output
    saved, source = tmp_path / "qwen3" / "saved", tmp_path / "qwen3" / "hf"
    megatron_to_hf(saved, tmp_path / "back", config_directory=source)
    assert_same(source, tmp_path / "back")


def test_the_result_is_a_complete_hugging_face_directory(tmp_path: Path) -> None:
    source = build(tmp_path / "hf", "qwen3", vocab_size=131)
    hf_to_megatron(source, tmp_path / "m")
    megatron_to_hf(tmp_path / "m", tmp_path / "back")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "back")("w7 w9 w23", return_tensors="pt")
    logits = [AutoModelForCausalLM.from_pretrained(path)(**tokens).logits for path in (source, tmp_path / "back")]
    assert torch.equal(*logits)


def test_a_dtype_is_changed_only_when_asked(tmp_path: Path) -> None:
    source = build(tmp_path / "hf")
    change_config(source, dtype="bfloat16")
    hf_to_megatron(source, tmp_path / "m")
    megatron_to_hf(tmp_path / "m", tmp_path / "same")
    assert_same(source, tmp_path / "same")
    assert json.loads((tmp_path / "same" / "config.json").read_text())["dtype"] == "float32"
    hf_to_megatron(source, tmp_path / "m16", tensor_size=2, dtype=torch.bfloat16)
    megatron_to_hf(tmp_path / "m16", tmp_path / "cast")
    megatron_to_hf(tmp_path / "m", tmp_path / "cast_back", dtype=torch.bfloat16)
    assert_same(tmp_path / "cast", tmp_path / "cast_back")
    original, cast = read_weights(source), read_weights(tmp_path / "cast")
    assert all(torch.equal(cast[name], original[name].bfloat16()) for name in original)


def test_large_models_are_written_in_shards_that_transformers_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = build(tmp_path / "hf")
    hf_to_megatron(source, tmp_path / "m")
    full = conversion.plan_files
    monkeypatch.setattr(conversion, "plan_files", lambda *args: full(*args, max_file_bytes=60_000))
    megatron_to_hf(tmp_path / "m", tmp_path / "back")
    assert len(list((tmp_path / "back").glob("model-*-of-*.safetensors"))) > 2
    assert_same(source, tmp_path / "back")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert torch.equal(model.lm_head.weight, read_weights(source)["lm_head.weight"])


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source, target = build(tmp_path / "in" / "hf", num_layers=3), tmp_path / "out" / "m"
    with pytest.raises(ModelError, match=r"pipeline_parallel_size 2.*number of layers, 3"):
        hf_to_megatron(source, target, pipeline_size=2)
    with pytest.raises(ModelError, match=r"tensor_parallel_size 4 must divide the key-value heads, 2"):
        hf_to_megatron(source, target, tensor_size=4)
    with pytest.raises(ModelError, match="tensor_parallel_size"):
        hf_to_megatron(source, target, tensor_size=0)
    change_config(source, vocab_size=300)
    with pytest.raises(ModelError, match=r"embed_tokens.weight is \[256, 64\], must be \[300, 64\]"):
        hf_to_megatron(source, target)
    change_config(source, architectures=["GPT2LMHeadModel"])
    with pytest.raises(ModelError, match="GPT2LMHeadModel is not supported"):
        hf_to_megatron(source, target)
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_refused(tmp_path: Path) -> None:
    source = build(tmp_path / "hf")
    (tmp_path / "taken").mkdir()
    with pytest.raises(CheckpointError, match=r"taken does: remove it"):
        hf_to_megatron(source, tmp_path / "taken")
    hf_to_megatron(source, tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"taken does: remove it"):
        megatron_to_hf(tmp_path / "m", tmp_path / "taken")


def _refused(megatron: Path, match: str) -> None:
    with pytest.raises((CheckpointError, ModelError), match=match):
        megatron_to_hf(megatron, megatron.parent / "refused" / "hf")
    assert not list((megatron.parent / "refused").glob("*"))


def test_a_damaged_megatron_directory_is_refused_by_name(tmp_path: Path) -> None:
    hf_to_megatron(build(tmp_path / "hf"), tmp_path / "good", tensor_size=2)
    data = (tmp_path / "good" / "__1_0.distcp").read_bytes()

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "good", tmp_path / name))

    missing = copy("missing")
    (missing / "__1_0.distcp").unlink()
    _refused(missing, r"__1_0\.distcp is missing")
    truncated = copy("truncated")
    (truncated / "__1_0.distcp").write_bytes(data[:-300])
    _refused(truncated, r"__1_0\.distcp")
    flipped = copy("flipped")
    (flipped / "__1_0.distcp").write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    _refused(flipped, r"__1_0\.distcp does not have the checksum")
    unmarked = copy("unmarked")
    (unmarked / "k15_manifest.json").unlink()
    (unmarked / "__1_0.distcp").write_bytes(bytes(len(data)))
    _refused(unmarked, r"__1_0\.distcp: the record of .* is damaged")
    no_metadata = copy("no_metadata")
    (no_metadata / ".metadata").unlink()
    _refused(no_metadata, r"has a \.metadata")
    other = copy("other")
    change_config(other / "hf", num_hidden_layers=3)
    _refused(other, r"linear_qkv.weight is \[2, 128, 64\], must be \[3, 128, 64\]")


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/megatron_k15_was_here",)


def test_hostile_metadata_runs_nothing(tmp_path: Path) -> None:
    hf_to_megatron(build(tmp_path / "hf"), tmp_path / "m")
    (tmp_path / "m" / "k15_manifest.json").unlink()
    (tmp_path / "m" / ".metadata").write_bytes(pickle.dumps(_Hostile()))
    _refused(tmp_path / "m", r"it names posix\.system, which is not part of the format")
    (tmp_path / "m" / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    _refused(tmp_path / "m", "does not hold checkpoint metadata")


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    source = build(tmp_path / "hf", vocab_size=6000)
    with pytest.raises(CheckpointError, match="No space left on device; nothing was left behind"):
        hf_to_megatron(source, small_disk / "m")
    assert not list(small_disk.iterdir())
    hf_to_megatron(source, tmp_path / "m")
    with pytest.raises(CheckpointError, match="No space left on device; nothing was left behind"):
        megatron_to_hf(tmp_path / "m", small_disk / "hf")
    assert not list(small_disk.iterdir())


MEASURE = """
import sys, torch
from pathlib import Path
from megatron_k15.checkpoint.conversion import hf_to_megatron, megatron_to_hf

def memory(field):
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith(field))

torch.set_num_threads(1)
source, work = Path(sys.argv[1]), Path(sys.argv[2])
for convert, paths in ((hf_to_megatron, (source, work / "m")), (megatron_to_hf, (work / "m", work / "back"))):
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmHWM")
    convert(*paths)
    print(memory("VmHWM") - before)
"""


def test_memory_stays_far_below_the_model_size(tmp_path: Path) -> None:
    """A model of 430 MiB whose largest tensor has 64 MiB, all zeros (its file is sparse)."""
    source = build(tmp_path / "hf", num_heads=16, num_kv_heads=16, num_layers=1)
    change_config(source, vocab_size=16384, hidden_size=1024, intermediate_size=4096, head_dim=64, num_hidden_layers=5)
    _write_zeros(source)
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(source), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    forth, back = map(int, result.stdout.split())
    assert (source / SINGLE_FILE).stat().st_size > 400 * 2**20
    assert forth < 128, result.stdout
    assert back < 128, result.stdout


def _write_zeros(directory: Path) -> None:
    from megatron_k15.checkpoint.hf_layout import plan_files
    from megatron_k15.models.architecture import Architecture
    from megatron_k15.models.mapping import weight_rules

    rules = weight_rules(Architecture.from_hf(directory))
    (plan,) = plan_files(((rule.hf_name, rule.hf_shape) for rule in rules), torch.float32)
    with (directory / SINGLE_FILE).open("wb") as file:
        file.write(plan.header)
        file.truncate(plan.num_bytes)
