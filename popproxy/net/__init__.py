"""FLOOR 4: the only rooms that touch client and upstream sockets."""
