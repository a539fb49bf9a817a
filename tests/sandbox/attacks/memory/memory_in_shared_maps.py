import mmap
x = mmap.mmap(-1, 1 << 30)
for i in range(0, 1 << 30, 4096): x[i] = 1
