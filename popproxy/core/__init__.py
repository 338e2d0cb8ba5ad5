"""FLOOR 2: the RFC 1939 machine, sans-IO. No socket, loop, clock or logging."""
