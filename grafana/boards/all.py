"""All boards, and the files they become."""

from __future__ import annotations

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.boards import commands, logins, logs, overview, plugins, runtime, upstreams

BOARDS = (overview.BOARD, logins.BOARD, commands.BOARD, upstreams.BOARD, plugins.BOARD, runtime.BOARD, logs.BOARD)


def files() -> dict[str, str]:
    """Name and content of each file in ``grafana/dashboards``."""
    encoder = JSONEncoder(sort_keys=True, indent=1)
    return {f"{board.uid}.json": encoder.encode(board.build()) + "\n" for board in BOARDS}
