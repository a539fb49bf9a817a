attempt('setuid', lambda: os.setuid(0) or 0)
attempt('setgid', lambda: os.setgid(0) or 0)
attempt('setgroups', lambda: os.setgroups([0]) or 0)
caps = [l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapPrm', 'CapEff', 'CapBnd', 'CapAmb'))]
print(*[c for c in caps if int(c, 16)], end='')
flags = dict(l.split(':\t') for l in open('/proc/self/status') if l.startswith(('NoNewPrivs', 'Seccomp:')))
if flags['NoNewPrivs'].strip() != '1' or flags['Seccomp'].strip() != '2': print(flags)
