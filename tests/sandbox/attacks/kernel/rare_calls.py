for name, number, *rest in (('bpf', 321, 5, 0, 0), ('io_uring', 425, 8, ctypes.create_string_buffer(200)),
    ('userfaultfd', 323, 1), ('keyctl', 250, 0, -3, 1), ('add_key', 248, b'user', b'a', b'b', 1, -3),
    ('perf', 298, ctypes.create_string_buffer(120), 0, -1, -1, 0), ('kexec', 246, 0, 0, 0, 0),
    ('init_module', 175, b'', 0, b''), ('reboot', 169, 0xfee1dead, 672274793, 0, 0), ('swapoff', 168, b'/x'),
    ('syslog', 103, 3, 0, 0), ('sethostname', 170, b'x', 1), ('acct', 163, 0), ('quotactl', 179, 0, 0, 0, 0),
    ('personality', 135, 0x0040000), ('fanotify', 300, 0, 0), ('handle', 304, -100, 0, 0), ('vhangup', 153),
    ('landlock', 444, 0, 0, 1), ('memfd_secret', 447, 0), ('process_madvise', 440, 3, 0, 0, 4, 0), ('sync', 162)):
    attempt(name, lambda: libc.syscall(number, *rest))
