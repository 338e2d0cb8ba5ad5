"""What people type: who, kick, top, upstreams, reload, drain, status. Each asks the admin listener of popproxy.

What users and servers have named is printable() before it reaches a terminal.
"""
