import time
attempt('settime', lambda: time.clock_settime(time.CLOCK_REALTIME, 0) or 0)
attempt('settimeofday', lambda: libc.settimeofday(ctypes.create_string_buffer(16), None))
attempt('adjtime', lambda: libc.adjtimex(ctypes.create_string_buffer(b'\x01' + bytes(300))))
