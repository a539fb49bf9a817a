# Stands before every attack written in Python: one line of output per success.
import ctypes, os, signal, socket, sys

libc = ctypes.CDLL(None, use_errno=True)


def attempt(name, action):
    try:
        result = action()
    except (OSError, ValueError):
        return
    if result != -1:
        print(name, result)


