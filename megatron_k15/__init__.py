"""Kimi k1.5 style reinforcement learning on megatron-core and vLLM. Importing this package does nothing else."""

__version__ = "0.1.0"
