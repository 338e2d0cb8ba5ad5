"""``python -m grafana.boards``: writes the boards."""

from pathlib import Path

from grafana.boards.all import files

DASHBOARDS = Path(__file__).resolve().parents[1] / "dashboards"

for name, text in files().items():
    (DASHBOARDS / name).write_text(text, encoding="ascii")
