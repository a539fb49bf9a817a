import os, signal
for pid in (1, os.getppid() or 1):
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
        try: os.kill(pid, number)
        except OSError: pass
