"""Several models → their weighted average (§2.4). Hugging Face directories are merged without torch, as streams."""
