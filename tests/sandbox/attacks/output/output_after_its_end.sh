(sleep 0.2; yes) & exit 0
