import os
for fd in range(3, 1024):
    try: print(fd, os.readlink(f'/proc/self/fd/{fd}'))
    except OSError: pass
    try: os.fstat(fd); print(fd)
    except OSError: pass
