"""The Grafana boards as code. ``python -m grafana.boards`` (``make boards``) writes ``grafana/dashboards/*.json``.

What is written is the classic dashboard JSON, which every Grafana from 10 on imports. The SDK calls it deprecated.
"""
