import os
fd = os.memfd_create('x')
while True: os.write(fd, b'1' * (1 << 20))
