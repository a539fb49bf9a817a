attempt('dns', lambda: socket.getaddrinfo('example.com', 80))
attempt('http', lambda: socket.create_connection(('127.0.0.1', 80), 1))
