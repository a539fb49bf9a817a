"""The tool on small models: Hugging Face files of any cut, Megatron directories, and what is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from megatron_k15.checkpoint.conversion import hf_to_megatron, megatron_to_hf
from tests.documents import ROOT, code_blocks
from tools.merge_checkpoints import main


@pytest.fixture
def models(tiny_model_dir: Path, tmp_path: Path) -> list[Path]:
    """Three of the same architecture; the second has its tensors in two files."""
    directories = [tmp_path / name for name in ("a", "b", "c")]
    for seed, directory in enumerate(directories):
        shutil.copytree(tiny_model_dir, directory)
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in load_file(directory / "model.safetensors").items()
        }
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    _shard(directories[1])
    return directories


def _shard(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file_name, part in parts.items():
        save_file({name: tensors[name] for name in part}, directory / file_name, metadata={"format": "pt"})
    where = {name: file_name for file_name, part in parts.items() for name in part}
    index = {"metadata": {}, "weight_map": where}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def _tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}


def _merge(models: list[Path], output: Path, *weights: float) -> int:
    given = ["--weights", *map(str, weights)] if weights else []
    return main(["--models", *map(str, models), "--output", str(output), *given])


def _assert_average(found: Path, models: list[Path], weights: list[float]) -> None:
    ours, theirs = _tensors(found), [_tensors(directory) for directory in models]
    assert ours.keys() == theirs[0].keys()
    for name, tensor in ours.items():
        exact = sum(w / sum(weights) * one[name].double() for w, one in zip(weights, theirs, strict=True))
        assert torch.equal(tensor, exact.float()), name


def test_any_cut_into_files(models: list[Path], tmp_path: Path) -> None:
    assert _merge(models, tmp_path / "plain") == 0
    _assert_average(tmp_path / "plain", models, [1, 1, 1])
    assert _merge([models[1], models[0]], tmp_path / "weighted", 3, 1) == 0
    _assert_average(tmp_path / "weighted", [models[1], models[0]], [3, 1])
    assert len(list((tmp_path / "weighted").glob("*.safetensors"))) == 2, "cut as the first model is"
    for name in ("plain", "weighted"):
        AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert (tmp_path / name / "tokenizer.json").read_bytes() == (models[0] / "tokenizer.json").read_bytes()


def test_megatron_directories_of_any_split(models: list[Path], tmp_path: Path) -> None:
    splits = [(1, 1), (2, 2)]
    stored = [tmp_path / f"megatron_{tensor}" for tensor, _ in splits]
    for source, target, (tensor, pipeline) in zip(models, stored, splits, strict=False):
        hf_to_megatron(source, target, tensor_size=tensor, pipeline_size=pipeline)
    assert _merge(stored, tmp_path / "merged", 1, 2) == 0
    megatron_to_hf(tmp_path / "merged", tmp_path / "back")
    _assert_average(tmp_path / "back", models[:2], [1, 2])
    with (stored[1] / "__0_0.distcp").open("r+b") as file:
        file.seek(-200, 2)
        file.write(b"\xff" * 8)
    assert _merge(stored, tmp_path / "damaged") == 1


def _change_config(directory: Path, **entries: object) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **entries}))


def _drop(directory: Path) -> None:
    tensors = _tensors(directory)
    del tensors["model.norm.weight"]
    save_file(tensors, directory / "model.safetensors")


def _cast(directory: Path) -> None:
    tensors = _tensors(directory)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].bfloat16()
    save_file(tensors, directory / "model.safetensors")


def _another_slow_tokenizer(directory: Path) -> None:
    for one in directory.parent.glob("?"):
        (one / "tokenizer.json").unlink()
        (one / "qwen.tiktoken").write_text(f"IQ== {0 if one == directory else 1}")


def _cut_short(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda other: _change_config(other, rope_theta=5.0), "differ in rope_theta"),
        (lambda other: (other / "tokenizer.json").write_text("{}"), "same tokenizer; tokenizer.json of"),
        (_another_slow_tokenizer, "same tokenizer; qwen.tiktoken of"),
        (_drop, "lacks model.norm.weight of"),
        (_cast, "model.norm.weight must be the same in all models; it is F32"),
        (lambda other: save_file({}, other / "model.safetensors"), "a model has tensors; the files of"),
        (_cut_short, "is damaged or incomplete"),
        (lambda other: (other / "model.safetensors").unlink(), "needs model.safetensors or"),
        (shutil.rmtree, "is a Hugging Face directory"),
    ],
)
def test_models_that_do_not_fit_are_refused_and_nothing_is_left(
    models: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    breaks: Callable[[Path], object],
    says: str,
) -> None:
    breaks(models[2])
    assert _merge([models[0], models[2]], tmp_path / "out") == 1
    assert says in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in "abc") == []


def test_arguments_that_make_no_average(models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for weights, says in (((1.0,), "one per model"), ((1.0, -1.0), "not zero"), ((1.0, float("nan")), "not zero")):
        assert _merge(models[:2], tmp_path / "out", *weights) == 1
        assert says in capsys.readouterr().err
    assert _merge(models[:1], tmp_path / "out") == 1
    (tmp_path / "out").mkdir()
    assert _merge(models[:2], tmp_path / "out") == 1
    assert "must not exist yet" in capsys.readouterr().err


def test_the_documents_commands_and_that_torch_stays_out(models: list[Path], tmp_path: Path) -> None:
    shutil.copytree(models[0], tmp_path / "models" / "rl")
    shutil.copytree(models[2], tmp_path / "models" / "short")
    for command in code_blocks("docs/merging.md", "bash"):
        words = command.split()
        assert words[:2] == ["python", "tools/merge_checkpoints.py"]
        watched = (
            "import runpy, sys; sys.argv = sys.argv[1:]\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "finally: assert 'torch' not in sys.modules, 'torch was imported'"
        )
        tool = [sys.executable, "-c", watched, str(ROOT / words[1]), *words[2:]]
        found = subprocess.run(tool, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
        assert found.returncode == 0, found.stderr
        assert "wrote models/" in found.stdout
