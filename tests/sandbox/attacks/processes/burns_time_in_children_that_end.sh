while true; do /bin/true; done
