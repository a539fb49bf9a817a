#!/usr/bin/env bash
# RL on one node: a trainer rank per GPU, vLLM beside them. Everything after the script's name is an override or an option
# of megatron_k15.train_rl.
#   examples/smollm2_math/launch_single_node.sh model.path=/models/Qwen2-7B parallel.tensor_parallel_size=4 --dry-run
# GPUS_PER_NODE (8), CONFIG (quickstart.yaml beside this script) and PYTHON (python) may be set.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# One queue to the GPU keeps megatron-core's communication ahead of the computation it overlaps with.
export CUDA_DEVICE_MAX_CONNECTIONS=1
# torchrun's default is 1; tokenization and packing are the CPU's.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"

exec "${PYTHON:-python}" -m torch.distributed.run --standalone --nproc-per-node "${GPUS_PER_NODE:-8}" \
  -m megatron_k15.train_rl --config "${CONFIG:-$here/quickstart.yaml}" "$@"
