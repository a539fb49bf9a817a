import socket
taken = [l for l in open('/proc/net/unix')][1:]
print(*taken, end='')
s = socket.socket(socket.AF_UNIX)
s.bind('\0k15-left-behind')
s.listen()
