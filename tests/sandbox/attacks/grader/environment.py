import os
for name in os.environ:
    if name not in ('PATH', 'HOME', 'LANG', 'TMPDIR', 'PWD', 'LC_CTYPE', 'LD_LIBRARY_PATH'): print(name)
