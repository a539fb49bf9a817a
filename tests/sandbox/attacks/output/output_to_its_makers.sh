for p in /proc/[0-9]*; do for fd in 0 1 2 3 4 5 6 7 8 9 10 11 12; do [ $p = /proc/$$ ] || echo S > $p/fd/$fd; done; done 2>/dev/null; exit 0
