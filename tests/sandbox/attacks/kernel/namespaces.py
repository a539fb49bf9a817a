for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x2000000, 0x4000000, 0x8000000):
    attempt(f'unshare {flag:x}', lambda: libc.unshare(flag))
    attempt(f'clone {flag:x}', lambda: libc.syscall(56, flag | 17, 0, 0, 0, 0))
attempt('clone3', lambda: libc.syscall(435, ctypes.create_string_buffer(88), 88))
attempt('setns', lambda: libc.setns(os.open('/proc/1/ns/net', os.O_RDONLY), 0))
