"""The chain-of-thought reward model: prompt, verdict, votes, training data (§2.3.5)."""
