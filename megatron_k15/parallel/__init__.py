"""Devices and process groups: what differs between a CUDA cluster and a laptop CPU, chosen once."""
