"""A model of the iteration in time: which budget, how many vLLM instances."""
