"""Runs programs that nobody has read, in a jail, and says what they did (§2.6.4). Stands alone: no torch.

`python -m megatron_k15.sandbox` starts the service; `client.py` speaks to it; `values.py` is what travels in between.
"""
