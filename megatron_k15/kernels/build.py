"""Compiles `csrc/` into `native-<hash>.so` beside this file: `python -m megatron_k15.kernels.build`.

The CPU kernels always; the CUDA ones where nvcc and a CUDA build of torch are found. The hash is of their sources, of
this file and of torch's version, so that an up-to-date library is recognised by its name and nothing is done.

A machine without g++ gets one line that says so, and the plain PyTorch reference does the work (`native.py`).
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(__file__).parent
SOURCES = PACKAGE.parents[1] / "csrc"
INCLUDES = tuple(f"-I{SOURCES / part}" for part in ("", "kernels", "include"))

CPP_FLAGS = (
    "-O3",
    "-fPIC",
    "-fopenmp",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
)
LANE_FLAGS = ("-std=c++17", "-fno-math-errno", "-Wno-maybe-uninitialized")
CPU_SOURCES: dict[str, tuple[str, ...]] = {
    "cpu/dispatch.cpp": ("-std=c++17",),
    "cpu/policy.cpp": ("-std=c++17",),
    "cpu/groups.cpp": ("-std=c++17",),
    "cpu/packing.cpp": ("-std=c++17",),
    "cpu/logits_portable.cpp": LANE_FLAGS,
}
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c")
X86_SOURCES: dict[str, tuple[str, ...]] = {
    "cpu/logits_avx2.cpp": (*LANE_FLAGS, *AVX2),
    "cpu/logits_avx512.cpp": (*LANE_FLAGS, *AVX512),
}
"""Flags per file: the rest runs on any CPU, and cpu/dispatch.cpp asks which of these this one can run."""
BINDINGS = "bindings/bindings.cpp"
CUDA_SOURCES = ("cuda/logits.cu", "cuda/policy.cu", "cuda/groups.cu")
CUDA_ARCHITECTURES = ("80", "90", "100")
CUDA_FLAGS = ("-std=c++17", "-O3")


class CompilerError(Exception):
    """A compiler is missing or refused a source; the message is what it printed."""


def library_path() -> Path:
    """Where the library of the present sources is, or would be."""
    return PACKAGE / f"native-{_source_hash()}.so"


def build() -> Path:
    """Make `library_path()` if it is not there; libraries of other sources go away.

    Raises:
        CompilerError: no g++, or an error in a source.
    """
    target = library_path()
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=PACKAGE, prefix=".build-") as directory:
            # Renamed into place when whole: a process that loads it never sees half of it.
            _link(_compile_all(Path(directory)), Path(directory) / target.name).rename(target)
        for old in PACKAGE.glob("native-*.so"):
            if old != target:
                old.unlink()
    return target


def find_nvcc() -> Path | None:
    """The CUDA compiler of the environment's nvidia-cuda-nvcc package, else that of CUDA_HOME or of PATH."""
    nvidia = find_spec("nvidia")
    packaged = [Path(root) / "cu13/bin/nvcc" for root in (nvidia.submodule_search_locations or [])] if nvidia else []
    installed = [Path(os.environ["CUDA_HOME"]) / "bin/nvcc"] if "CUDA_HOME" in os.environ else []
    on_path = [Path(found)] if (found := shutil.which("nvcc")) else []
    return next((nvcc for nvcc in (*packaged, *installed, *on_path) if nvcc.exists()), None)


def compile_cuda(source: str, target: Path, *extra: str) -> str:
    """One CUDA source to an object for every architecture; returns what nvcc printed.

    Raises:
        CompilerError: no nvcc, or an error in the source.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise CompilerError("nvcc is missing: it comes with nvidia-cuda-nvcc of requirements/cpu.lock")
    codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in CUDA_ARCHITECTURES]
    flags = (*CUDA_FLAGS, "-Xcompiler", "-fPIC", *codes, *INCLUDES, *extra)
    return run_compiler([str(nvcc), *flags, "-c", str(SOURCES / source), "-o", str(target)])


def run_compiler(command: list[str]) -> str:
    """What it printed.

    Raises:
        CompilerError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompilerError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def builds_cuda() -> bool:
    """True where the library gets the CUDA kernels: a torch that can run them, and nvcc."""
    return (_torch_root() / "lib/libtorch_cuda.so").exists() and find_nvcc() is not None


def _torch_root() -> Path:
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise CompilerError("torch is missing: install it before the kernels are built")
    return Path(spec.origin).parent


def _source_hash() -> str:
    try:
        torch = version("torch")
    except PackageNotFoundError as error:
        raise CompilerError("torch is missing: install it first, and pip install with --no-build-isolation") from error
    digest = hashlib.sha256(f"{torch} {sys.version_info[:2]}".encode())
    for path in sorted([*SOURCES.rglob("*"), Path(__file__)]):
        if path.is_file() and path.parent.name != "emulation":
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _compile_all(directory: Path) -> list[Path]:
    if shutil.which("g++") is None:
        raise CompilerError("g++ is missing: install it (Debian: apt-get install g++)")
    jobs = list(_jobs(directory))
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        list(pool.map(run_compiler, [command for command, _ in jobs]))
    objects = [target for _, target in jobs]
    if builds_cuda():
        for source in CUDA_SOURCES:
            objects.append(directory / f"{Path(source).name}.o")
            compile_cuda(source, objects[-1])
    return objects


def _jobs(directory: Path) -> Iterator[tuple[list[str], Path]]:
    """(command, object), the slow one first."""
    on_x86 = os.uname().machine == "x86_64"
    sources = {BINDINGS: _binding_flags(), **CPU_SOURCES, **(X86_SOURCES if on_x86 else {})}
    for source, flags in sources.items():
        target = directory / f"{Path(source).stem}.o"
        yield ["g++", *CPP_FLAGS, *flags, *INCLUDES, "-c", str(SOURCES / source), "-o", str(target)], target


def _binding_flags() -> tuple[str, ...]:
    import pybind11

    # As system headers: torch's are not held to our warnings.
    include = _torch_root() / "include"
    system = (include, include / "torch/csrc/api/include", pybind11.get_include(), sysconfig.get_path("include"))
    cuda = ("-DK15_WITH_CUDA",) if builds_cuda() else ()
    return ("-std=c++20", "-O2", *(f"-isystem{path}" for path in system), *cuda)


def _link(objects: list[Path], target: Path) -> Path:
    libraries = _torch_root() / "lib"
    torch = [f"-L{libraries}", "-ltorch_cpu", "-ltorch_python", "-lc10", f"-Wl,-rpath,{libraries}"]
    cuda: list[str] = []
    if builds_cuda():
        nvcc = find_nvcc()
        assert nvcc is not None
        root = nvcc.resolve().parents[1]
        cuda = [f"-L{root / 'lib64'}", f"-L{root / 'lib'}", "-lcudart_static", "-ldl", "-lrt"]
    run_compiler(["g++", "-shared", "-fopenmp", *map(str, objects), *torch, *cuda, "-o", str(target)])
    return target


def main() -> int:
    try:
        already = library_path().exists()
        target = build()
    except CompilerError as error:
        # Slower, not wrong: the plain PyTorch reference takes over.
        print(f"[kernels] not built, the PyTorch reference will be used: {error}", file=sys.stderr)
        return 0
    what = "CPU and CUDA" if builds_cuda() else "CPU"
    print(f"[kernels] {what}: {target.name} {'is up to date' if already else 'built'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
