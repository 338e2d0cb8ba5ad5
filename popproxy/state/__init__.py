"""FLOOR 2: api.Store for one worker (memory), the workers of a host (sqlite), a fleet (redis)."""
