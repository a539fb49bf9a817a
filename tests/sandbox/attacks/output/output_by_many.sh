for i in 1 2 3 4; do yes & done; wait
