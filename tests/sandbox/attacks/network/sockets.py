for family in range(1, 46):
    if family == socket.AF_UNIX: continue
    for kind in (1, 2, 3, 5): attempt((family, kind), lambda: socket.socket(family, kind) and 0)
