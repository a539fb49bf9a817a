import os
for p in ('/etc/shadow', '/etc/hostname', '/etc/resolv.conf', '/root/.bashrc', '/home', '/var', '/sys/kernel',
          '/run', '/mnt', '/work', '/proc/1/root/etc/shadow', '/proc/self/root/etc/shadow', '/.dockerenv'):
    if os.path.lexists(p): print(p)
