"""Weights from the trainer to vLLM: the sending side, and the check that both sides compute the same."""
