"""Models: what Hugging Face calls them, what megatron-core calls them, and the one table between the two."""
