import os
print('right', flush=True)
if os.fork() == 0: x = b'1' * (1 << 30)
os.wait()
