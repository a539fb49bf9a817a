"""The classic reward model (§2.3.5): one score per response, served in batches by vLLM."""
