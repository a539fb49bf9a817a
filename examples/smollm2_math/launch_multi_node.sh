#!/usr/bin/env bash
# RL on several nodes under SLURM: run once on each of them, inside a job.
#   sbatch --nodes 2 --ntasks-per-node 1 --gpus-per-node 8 --wrap \
#     "srun examples/smollm2_math/launch_multi_node.sh model.path=/models/Qwen2-7B run_dir=/shared/runs/mine"
# The model and run_dir must be on a file system that all nodes share. vLLM runs on the node of rank 0 alone, and only
# transfer.backend=nccl crosses nodes; docs/gpu.md says what has run.
# GPUS_PER_NODE (8), CONFIG, PYTHON (python), HEAD_NODE (the job's first) and RENDEZVOUS_PORT (29400) may be set.
set -euo pipefail

: "${SLURM_JOB_ID:?must be set: run this inside a SLURM job (sbatch or salloc), through srun}"
: "${SLURM_NNODES:?must be set: run this inside a SLURM job, through srun}"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
head_node=${HEAD_NODE:-}
if [ -z "$head_node" ]; then
  head_node=$(scontrol show hostnames "${SLURM_JOB_NODELIST:?must be set}")
  head_node=${head_node%%$'\n'*}
fi

overrides=()
if ((SLURM_NNODES > 1)); then
  overrides+=(transfer.backend=nccl) # hosts share neither memory nor GPUs
fi

# One queue to the GPU keeps megatron-core's communication ahead of the computation it overlaps with. NCCL finds its
# networks itself: set NCCL_SOCKET_IFNAME or NCCL_IB_HCA in the job where its choice is wrong.
export CUDA_DEVICE_MAX_CONNECTIONS=1
# Ranks that torchrun restarts (--max-restarts) would find the addresses of the dead in a store that it shares with them.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"

exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes "$SLURM_NNODES" --nproc-per-node "${GPUS_PER_NODE:-8}" \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head_node:${RENDEZVOUS_PORT:-29400}" \
  -m megatron_k15.train_rl --config "${CONFIG:-$here/quickstart.yaml}" "${overrides[@]}" "$@"
