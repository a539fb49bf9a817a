for p in ('kernel/core_pattern', 'kernel/hostname', 'vm/drop_caches', 'kernel/modprobe', 'net/ipv4/ip_forward'):
    attempt(p, lambda: os.open('/proc/sys/' + p, os.O_WRONLY))
for p in ('/proc/sysrq-trigger', '/proc/kmsg', '/dev/mem'):
    attempt(p, lambda: os.write(os.open(p, os.O_WRONLY), b'c'))
attempt('kcore', lambda: len(open('/proc/kcore', 'rb').read(64)) or -1)
attempt('keys', lambda: len(open('/proc/keys', 'rb').read(64)) or -1)
attempt('cgroup', lambda: os.listdir('/sys/fs/cgroup'))
