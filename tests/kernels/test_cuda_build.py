"""The CUDA sources compile for every architecture without a spill and stand apart from torch; docs/kernels.md shows
what ptxas says of them. No GPU takes part."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from megatron_k15.kernels import build
from megatron_k15.kernels.build import CUDA_ARCHITECTURES, CUDA_SOURCES, SOURCES, compile_cuda, find_nvcc
from tests.documents import ROOT

KERNEL_SOURCES = sorted([*SOURCES.rglob("*.cu"), *SOURCES.rglob("*.cuh")])
ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
USED = re.compile(r"Used (\d+) registers(?:.*?, (\d+) bytes smem)?")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
NAME = re.compile(r"\d+([a-z]+_kernel)I(.*)EEvNS")
TYPES = {"f": "fp32", "d": "fp64", "Bfloat16": "bf16", "Float16": "fp16"}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Source → object, and what nvcc and ptxas said."""
    assert find_nvcc() is not None, "nvcc is missing: install requirements/cpu.lock (nvidia-cuda-nvcc and its parts)"
    directory = tmp_path_factory.mktemp("cuda")
    objects = {source: directory / f"{Path(source).stem}.o" for source in CUDA_SOURCES}
    return {source: (path, compile_cuda(source, path, "-Xptxas", "-v")) for source, path in objects.items()}


@pytest.fixture(scope="module")
def report(compiled: dict[str, tuple[Path, str]]) -> dict[tuple[str, str], dict[str, int]]:
    """(kernel, architecture) → registers, shared bytes, stack and spill bytes, from ptxas -v."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for _, printed in compiled.values():
        for entry, frame, used in zip(
            ENTRY.findall(printed), FRAME.findall(printed), USED.findall(printed), strict=True
        ):
            name, architecture = _readable(entry[0]), entry[1]
            found[name, architecture] = {
                "registers": int(used[0]),
                "shared": int(used[1] or 0),
                "spilled": sum(map(int, frame)),
            }
    return found


def test_every_kernel_is_there_for_every_architecture_and_none_spills(report) -> None:
    assert {architecture for _, architecture in report} == set(CUDA_ARCHITECTURES)
    names = {name for name, _ in report}
    assert len(names) == 18, sorted(names)
    assert len(report) == len(names) * len(CUDA_ARCHITECTURES)
    for key, used in report.items():
        assert used["spilled"] == 0, f"{key}: {used['spilled']} bytes of local memory"
        # 512 threads of 64 registers are half a multiprocessor's file: two blocks fit at least.
        assert used["registers"] <= 64, f"{key}: {used['registers']} registers"


def test_the_document_shows_what_ptxas_says(report) -> None:
    text = (ROOT / "docs/kernels.md").read_text()
    shown = re.findall(r"^\| `(\w+_kernel.*?)` \| (.*) \|$", text, re.MULTILINE)
    assert dict(shown) == _table(report)


def _table(report: dict[tuple[str, str], dict[str, int]]) -> dict[str, str]:
    rows = {}
    for name in sorted({name for name, _ in report}):
        used = [report[name, architecture] for architecture in CUDA_ARCHITECTURES]
        registers = " / ".join(str(one["registers"]) for one in used)
        rows[name] = f"{registers} | {used[0]['shared']} | {max(one['spilled'] for one in used)}"
    return rows


def test_kernels_and_headers_know_no_torch_and_no_cub() -> None:
    assert len(KERNEL_SOURCES) >= 10
    for path in KERNEL_SOURCES:
        text = path.read_text()
        for header in re.findall(r"#include [<\"](.+?)[>\"]", text):
            assert not re.match(r"(torch|ATen|c10|pybind11|cub|thrust|cuda)", header), f"{path}: {header}"


def test_inline_ptx_and_cuda_built_ins_stand_in_the_header_with_an_emulated_twin() -> None:
    built_in = re.compile(r"\basm\b|__shfl|__syncthreads|\bthreadIdx\b|\bblockIdx\b|<<<|__shared__|__global__")
    allowed = {"intrinsics.cuh", "launch.cuh"}
    for path in KERNEL_SOURCES:
        if path.name not in allowed:
            assert not built_in.search(path.read_text()), path
    declared = r"K15_DEVICE\s+[\w<>:]+\s+(\w+)\("
    real = set(re.findall(declared, (SOURCES / "kernels/intrinsics.cuh").read_text().split("#endif")[0]))
    twin = set(re.findall(declared, (SOURCES / "emulation/intrinsics.h").read_text()))
    assert real - {"block_barrier"} == twin


def test_only_the_bindings_include_torch() -> None:
    with_torch = [path for path in SOURCES.rglob("*.*") if re.search(r"#include <(torch|ATen|c10)/", path.read_text())]
    assert with_torch == [SOURCES / "bindings/bindings.cpp"]


LOADED = """
import importlib.util, sys
import torch
spec = importlib.util.spec_from_file_location("_native", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert module.with_cuda
found = torch.ops.k15.softmax_statistics(torch.zeros(1, 8), torch.tensor([3]), 1.0, False)
assert found.T.tolist() == [[0.0, 8.0, 0.0]], found
"""


def test_the_library_with_cuda_inside_links_loads_and_works_on_the_cpu(
    compiled: dict[str, tuple[Path, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine whose torch is CUDA's: every launcher is found, the CUDA runtime is inside, and loading it asks
    for no driver. Launches want a GPU (tests/gpu)."""

    def already(source: str, target: Path) -> str:
        shutil.copy(compiled[source][0], target)
        return ""

    monkeypatch.setattr(build, "builds_cuda", lambda: True)
    monkeypatch.setattr(build, "compile_cuda", already)
    library = build._link(build._compile_all(tmp_path), tmp_path / "native.so")
    build.run_compiler([sys.executable, "-c", LOADED, str(library)])


def _readable(mangled: str) -> str:
    """_ZN…15gradient_kernelINS_8Bfloat16EfEEv… → gradient_kernel<bf16>, with `entropy` where that is compiled in."""
    found = NAME.search(mangled)
    assert found is not None, mangled
    kernel, arguments = found.groups()
    stored = next((TYPES[name] for name in ("Bfloat16", "Float16") if name in arguments), None)
    stored = stored or TYPES[re.sub(r"Lb\dE|NS_\w+", "", arguments)[0]]
    return f"{kernel}<{stored}{', entropy' if 'Lb1E' in arguments else ''}>"
