"""From raw prompts to the RL prompt set (§2.1): one file per rule; `pipeline.py` knows their order."""
