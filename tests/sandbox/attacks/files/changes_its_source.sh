echo 1 >> /box/main.sh; rm -f /box/main.sh; mv /box/main.sh /tmp; chmod 777 /box; exit 0 2>/dev/null
