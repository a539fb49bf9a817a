attempt('mknod', lambda: os.mknod('/tmp/d', 0o20666, os.makedev(1, 1)) or 0)
