"""What is written about the boards: pages and pictures are there, and provisioning names what exists."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
import yaml

from tests.grafana.expressions import DASHBOARDS, boards, source

ROOT = DASHBOARDS.parents[1]
PAGE = ROOT / "docs" / "boards.md"
PICTURES = ROOT / "docs" / "pictures"


def test_the_page_has_every_board_under_its_name_in_order() -> None:
    titles = [heading.removeprefix("## ") for heading in PAGE.read_text().splitlines() if heading.startswith("## ")]
    assert sorted(titles) == sorted(board["title"].removeprefix("popproxy / ") for board in boards().values())
    assert titles[0] == "Overview"
    assert "unproven" in PAGE.read_text().split("## Logs and users")[1]
    assert "Unproven" in boards()["popproxy-logs.json"]["description"]


@pytest.mark.parametrize("uid", [board["uid"] for board in boards().values() if source(board) == "prometheus"])
def test_every_board_that_could_be_drawn_has_a_picture(uid: str) -> None:
    picture = (PICTURES / f"{uid}.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, _ = struct.unpack(">II", picture[16:24])
    assert width >= 1500
    assert len(picture) < 300_000
    assert f"(pictures/{uid}.png)" in PAGE.read_text()


def test_readme_shows_the_overview() -> None:
    assert "(docs/pictures/popproxy-overview.png)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", [PAGE, ROOT / "grafana" / "README.md"], ids=["docs", "grafana"])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_provisioning_can_be_read() -> None:
    """That Grafana takes it nobody could try; its keys are those of Grafana's manual."""
    folder = ROOT / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards" / "popproxy.yml").read_text())["providers"]
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
    assert provider["options"]["path"] in (ROOT / "grafana" / "README.md").read_text()
    sources = yaml.safe_load((folder / "datasources" / "popproxy.yml").read_text())["datasources"]
    assert [found["type"] for found in sources] == ["prometheus", "alertmanager"]
    assert len({found["uid"] for found in sources}) == len(sources)
