"""Every broken directory is refused with the name of what is wrong; a good one is read bit for bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from megatron_k15.errors import ModelError
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.hf_files import HfWeights
from megatron_k15.models.mapping import weight_rules
from megatron_k15.models.weight_files import INDEX_FILE, SINGLE_FILE
from tests.models.tiny_models import FAMILIES, build

NORM = "model.layers.1.input_layernorm.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"


def _open(directory: Path) -> HfWeights:
    return HfWeights.open(directory, Architecture.from_hf(directory))


def _rewrite(directory: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors of the single file; None removes one."""
    tensors = {**load_file(directory / SINGLE_FILE), **changes}
    save_file({k: v for k, v in tensors.items() if v is not None}, directory / SINGLE_FILE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sharded", [False, True])
def test_every_tensor_is_read_bit_for_bit(tmp_path: Path, family: str, sharded: bool) -> None:
    directory = build(tmp_path / "m", family, sharded=sharded, tied=sharded, dtype=torch.bfloat16)
    weights = _open(directory)
    files = sorted(directory.glob("*.safetensors"))
    assert (len(files) > 1) == sharded
    seen = set()
    for path in files:
        with safe_open(path, framework="pt") as reference:
            for name in reference.keys():  # noqa: SIM118
                expected = reference.get_tensor(name)
                assert torch.equal(weights.tensor(name), expected)
                assert weights.dtype(name) == expected.dtype
                seen.add(name)
    assert seen == set(weights.places) == {rule.hf_name for rule in weight_rules(Architecture.from_hf(directory))}


def test_tensors_are_views_of_the_file_and_writing_to_one_does_not_reach_it(tmp_path: Path) -> None:
    weights = _open(build(tmp_path / "m"))
    before = (tmp_path / "m" / SINGLE_FILE).read_bytes()
    first, again = weights.tensor(DOWN), weights.tensor(DOWN)
    assert first.data_ptr() == again.data_ptr()
    first.zero_()
    assert (tmp_path / "m" / SINGLE_FILE).read_bytes() == before


def test_released_tensors_are_read_again(tmp_path: Path) -> None:
    weights = _open(build(tmp_path / "m"))
    tensor = weights.tensor(DOWN)
    kept = tensor.clone()
    weights.release(DOWN)
    assert torch.equal(tensor, kept)


def test_files_with_unaligned_tensors_are_read(tmp_path: Path) -> None:
    directory = build(tmp_path / "m")
    path = directory / SINGLE_FILE
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + length].rstrip() + b" "
    header += b" " * ((len(header) + 1) % 2)
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])
    assert any(place.start % 4 for place in _open(directory).places.values())
    assert torch.equal(_open(directory).tensor(DOWN), load_file(path)[DOWN])


def test_missing_extra_and_misshaped_tensors_are_named(tmp_path: Path) -> None:
    directory = build(tmp_path / "missing")
    _rewrite(directory, **{NORM: None})
    with pytest.raises(ModelError, match=f"missing {NORM}"):
        _open(directory)
    directory = build(tmp_path / "extra")
    _rewrite(directory, **{"model.layers.2.mlp.up_proj.weight": torch.ones(2)})
    with pytest.raises(ModelError, match=r"unexpected model\.layers\.2\.mlp\.up_proj\.weight"):
        _open(directory)
    directory = build(tmp_path / "shape")
    _rewrite(directory, **{DOWN: torch.ones(64, 95)})
    with pytest.raises(ModelError, match=rf"{DOWN} is \[64, 95\], must be \[64, 96\]"):
        _open(directory)


def test_mixed_and_unsupported_dtypes_are_named(tmp_path: Path) -> None:
    directory = build(tmp_path / "mixed")
    _rewrite(directory, **{DOWN: torch.ones(64, 96, dtype=torch.bfloat16)})
    with pytest.raises(ModelError, match=f"one dtype.*bfloat16 are {DOWN}"):
        _open(directory)
    _rewrite(directory, **{DOWN: torch.ones(64, 96, dtype=torch.float64)})
    with pytest.raises(ModelError, match=rf"{DOWN} \(F64\)"):
        _open(directory)


def test_missing_shards_and_truncated_files_are_named(tmp_path: Path) -> None:
    directory = build(tmp_path / "m", sharded=True)
    shard = sorted(directory.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(ModelError, match=f"not there: {shard.name}"):
        _open(directory)
    for size in (len(content) - 1, 40, 5, 0):
        shard.write_bytes(content[:size])
        with pytest.raises(ModelError, match=f"{shard.name} is damaged"):
            _open(directory)


def test_a_tensor_in_two_shards_is_named(tmp_path: Path) -> None:
    directory = build(tmp_path / "m", sharded=True)
    first, second = sorted(directory.glob("*.safetensors"))[:2]
    name, tensor = next(iter(load_file(first).items()))
    save_file({**load_file(second), name: tensor}, second)
    with pytest.raises(ModelError, match=f"{name} is in two files"):
        _open(directory)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "../x.safetensors"}}'])
def test_broken_indices_are_refused(tmp_path: Path, content: str) -> None:
    directory = build(tmp_path / "m", sharded=True)
    (directory / INDEX_FILE).write_text(content)
    with pytest.raises(ModelError, match=INDEX_FILE):
        _open(directory)


def test_pickles_are_refused(tmp_path: Path) -> None:
    directory = build(tmp_path / "m")
    (directory / SINGLE_FILE).rename(directory / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin are pickles"):
        _open(directory)
    with pytest.raises(ModelError, match="is none"):
        HfWeights.open(tmp_path / "nowhere", Architecture.from_hf(directory))


def test_a_tied_head_is_skipped_when_equal_and_refused_otherwise(tmp_path: Path) -> None:
    directory = build(tmp_path / "m", tied=True)
    embedding = load_file(directory / SINGLE_FILE)["model.embed_tokens.weight"]
    _rewrite(directory, **{"lm_head.weight": embedding.clone()})
    assert "lm_head.weight" not in _open(directory).places
    _rewrite(directory, **{"lm_head.weight": embedding + 1})
    with pytest.raises(ModelError, match=r"lm_head\.weight differs"):
        _open(directory)


def test_rotary_buffers_of_old_checkpoints_are_skipped(tmp_path: Path) -> None:
    directory = build(tmp_path / "m", dtype=torch.bfloat16)
    _rewrite(directory, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    assert not [name for name in _open(directory).places if "inv_freq" in name]


def test_a_config_that_disagrees_with_the_weights_is_refused(tmp_path: Path) -> None:
    directory = build(tmp_path / "m")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"missing model\.layers\.2\."):
        _open(directory)
