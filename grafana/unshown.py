"""Metrics that are on no board, each with the reason. Everything else that popproxy exports is on one."""

UNSHOWN: dict[str, str] = {}
