for pid in (1, os.getppid()):
    attempt('attach', lambda: libc.ptrace(16, pid, 0, 0))
    attempt('seize', lambda: libc.ptrace(0x4206, pid, 0, 0))
    attempt('memory', lambda: os.open(f'/proc/{pid}/mem', os.O_RDWR)) if pid != os.getpid() else None
    attempt('read', lambda: libc.process_vm_readv(pid, 0, 0, 0, 0, 0))
    attempt('descriptor', lambda: libc.syscall(438, os.pidfd_open(pid), 1, 0))
