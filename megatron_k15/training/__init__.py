"""The trainer: advantages, packing, mirror descent, the optimizer step on megatron-core."""
