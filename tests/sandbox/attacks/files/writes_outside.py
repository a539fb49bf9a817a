import os
for d, _, files in os.walk('/'):
    if d.startswith(('/proc', '/tmp', '/dev/fd')): continue
    try: open(d + '/k15', 'w'); print(d)
    except OSError: pass
