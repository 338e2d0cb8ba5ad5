"""The committed boards: what the generator writes, what Grafana reads, and where everything stands."""

from __future__ import annotations

import json
import re
from itertools import chain
from urllib.parse import urlsplit

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard

from grafana.boards.all import BOARDS, files
from tests.grafana.expressions import Json, boards, expressions, panels

COMMITTED = boards()
UIDS = [f"popproxy-{word}" for word in ("overview", "logins", "commands", "upstreams", "plugins", "runtime", "logs")]
each_board = pytest.mark.parametrize("board", COMMITTED.values(), ids=COMMITTED.keys())

register_default_plugins()


def test_the_committed_boards_are_what_make_boards_writes() -> None:
    generated = {name: json.loads(text) for name, text in files().items()}
    assert generated == COMMITTED, "run make boards and commit grafana/dashboards"


def read_back(board: Json) -> object:
    """What is left of a board after the SDK has read it: keys that Grafana does not know are gone."""
    return json.loads(JSONEncoder().encode(dashboard.Dashboard.from_json(json.loads(json.dumps(board)))))


@each_board
def test_it_has_no_key_that_grafana_does_not_know(board: Json) -> None:
    assert read_back(board) == board


def test_a_misspelt_key_would_be_found() -> None:
    board = json.loads(json.dumps(next(iter(COMMITTED.values()))))
    for spoil in (
        lambda: board.update(titel="x"),
        lambda: panels(board)[0].update(desciption="x"),
        lambda: panels(board)[0]["fieldConfig"]["defaults"].update(unti="s"),
        lambda: panels(board)[0]["options"].update(colourMode="value"),
        lambda: panels(board)[0]["targets"][0].update(exprr="1"),
        lambda: board["templating"]["list"][1].update(includeAl=True),
    ):
        before = json.loads(json.dumps(board))
        spoil()
        assert read_back(board) == read_back(before), "the key is not dropped, so this check finds nothing"
        assert read_back(board) != board


def test_uids_and_titles_are_stable_and_unique() -> None:
    assert {board.uid for board in BOARDS} <= set(UIDS)
    assert len({board["title"] for board in COMMITTED.values()}) == len(COMMITTED)
    for name, board in COMMITTED.items():
        assert name == f"{board['uid']}.json"
        assert board["tags"] == ["popproxy"]
        assert "id" not in board, "an id belongs to one Grafana's database"


@each_board
def test_it_is_short_and_every_panel_has_a_name_of_its_own(board: Json) -> None:
    titles = [panel["title"] for panel in panels(board)]
    assert 4 <= len(titles) <= 20
    assert len(set(titles)) == len(titles)


@each_board
def test_panels_fill_the_grid_without_overlap(board: Json) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert 0 <= cell[0] < 24
            assert cell not in taken, f"{panel['title']} stands on {taken[cell]}"
            taken[cell] = panel["title"]
    depth = 1 + max(y for _, y in taken)
    assert len(taken) == 24 * depth, "there are holes"
    assert sorted(panel["id"] for panel in board["panels"]) == list(range(1, len(board["panels"]) + 1))


@each_board
def test_its_panels_read_by_rows_from_the_top(board: Json) -> None:
    places = [(panel["gridPos"]["y"], panel["gridPos"]["x"]) for panel in board["panels"]]
    assert places == sorted(places)


@each_board
def test_links_keep_time_and_variables(board: Json) -> None:
    (link,) = board["links"]
    assert (link["type"], link["tags"]) == ("dashboards", ["popproxy"])
    assert link["keepTime"] and link["includeVars"]
    for found in chain.from_iterable(panel.get("links", []) for panel in panels(board)):
        url = urlsplit(found["url"])
        assert url.path.removeprefix("/d/") in UIDS, found["url"]
        assert url.query == "${__url_time_range}&${__all_variables}"


@each_board
def test_time_is_marked_and_shared(board: Json) -> None:
    assert board["graphTooltip"] == 1
    assert board["annotations"]["list"]
    assert board["refresh"] == "30s"


@each_board
def test_descriptions_are_sentences_that_say_what_to_do(board: Json) -> None:
    for panel in [board, *panels(board)]:
        words = panel["description"]
        assert words.endswith("."), panel["title"]
        assert 8 <= len(words.split()) <= 60, panel["title"]


def test_processor_time_is_of_the_cores_that_workers_can_use() -> None:
    """Added up over workers it is above 90 % of one core whenever several of them do anything."""
    found = [asked for asked in expressions() if "process_cpu_seconds_total" in asked.raw]
    assert {asked.board for asked in found} == {"popproxy-overview", "popproxy-runtime"}
    for asked in found:
        assert " / on (job, instance) (count by (job, instance) (popproxy_worker_up" in asked.raw, asked


def test_handshakes_that_all_fail_are_a_share() -> None:
    """tls_handshakes_total has no series before the first that succeeds: what is added to nothing is nothing."""
    (asked,) = [asked for asked in expressions() if asked.panel == "Handshakes that failed"]
    whole = asked.raw.split(" / ", 1)[1]
    assert re.search(r"\(sum\(rate\(popproxy_tls_handshakes_total\{.*?\}\[.*?\]\)\) or vector\(0\)\) \+ ", whole), whole
