"""Responses to prompts: requests to vLLM out, trajectories in (§2.6.1)."""
