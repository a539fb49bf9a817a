truncate -s 1T /tmp/x
