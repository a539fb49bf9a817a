"""vLLM instances on other machines: they join, work, and may leave or fall silent at any time (§2.6.3)."""
