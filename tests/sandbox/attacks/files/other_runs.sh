ls -A /tmp /dev/shm/ | grep -v '^$' | grep -v : ; touch /tmp/left /dev/shm/left; exit 0
