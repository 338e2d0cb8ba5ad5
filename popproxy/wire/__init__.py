"""FLOOR 0: bytes in, values out. Knows no role, no policy, no socket."""
