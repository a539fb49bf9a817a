# A host's dump handler runs as root, on what a program left in its memory.
import resource

for limits in ((0, 0), (0, 1), (1 << 20, 1 << 20), (1, 1)):
    try:
        resource.setrlimit(resource.RLIMIT_CORE, limits)
        print("changed", limits)
    except (OSError, ValueError):
        pass
attempt("prlimit", lambda: libc.prlimit64(0, resource.RLIMIT_CORE, ctypes.create_string_buffer(16), None))
if resource.getrlimit(resource.RLIMIT_CORE) != (1, 1):
    print(resource.getrlimit(resource.RLIMIT_CORE))
