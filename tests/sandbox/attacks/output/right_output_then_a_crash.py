import os
print('right', flush=True)
os.abort()
