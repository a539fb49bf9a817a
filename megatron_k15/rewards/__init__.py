"""Responses in, scored groups out: verdicts from worker processes, and the terms that make a reward of them."""
