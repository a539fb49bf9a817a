import os, time
for _ in range(8):
    if os.fork() == 0:
        x = b'1' * (40 << 20); time.sleep(1); os._exit(0)
for _ in range(8): os.wait()
