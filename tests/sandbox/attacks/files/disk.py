f = open('/tmp/x', 'wb')
while True: f.write(b'1' * (1 << 20))
