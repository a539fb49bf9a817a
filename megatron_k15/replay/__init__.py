"""The replay buffer (§2.6.1): what was sampled, durably; which groups wait for their next iteration."""
