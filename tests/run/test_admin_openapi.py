"""The OpenAPI document: complete, current, and kept by a running popproxy, whatever is sent to it."""

from __future__ import annotations

import http.client
import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from popproxy.run.admin.api import Api
from popproxy.run.admin.openapi import document, document_text
from popproxy.run.admin.page import PageRoutes
from tests.net.upstream import Peer, Upstream
from tests.run.office import Desks
from tests.run.process import PATIENCE, Process, program
from tests.wireclient import WireClient

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdef-the-token"
NOT_FUZZED = {"/v1/drain", "/v1/events", "/v1/tap"}
"""One ends the process, the other never ends. Tests of their own ask for them."""
EXAMPLES = 5
"""Requests of each kind for each operation."""
LEFT_OUT = {"object_level_authorization", "use_after_free", "ensure_resource_availability", "ignored_auth"}
"""Checks of sequences of requests; and what waits a second for each wrong token, which has a test of its own."""
SCHEMA = schemathesis.openapi.from_dict(document())
CONFIG = """
[[listener]]
name = "main"
bind = ["127.0.0.1:0"]
tls = "off"
auth_before_tls = "allow"
[upstream.main]
servers = ["{server}"]
[[plugin]]
use = "brute_force"
[admin]
bind = "127.0.0.1:0"
token = "{token}"
[timeouts]
connect = "1s"
"""


def test_the_committed_document_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    written = (ROOT / "docs" / "admin.openapi.json").read_text("ascii")
    assert written == document_text(), "run: python -m popproxy.run.admin.openapi > docs/admin.openapi.json"
    runpy.run_path(str(ROOT / "popproxy" / "run" / "admin" / "openapi.py"), run_name="__main__")
    assert capsys.readouterr().out == written


def test_every_route_is_in_the_document_and_nothing_else() -> None:
    page = {route.path for route in PageRoutes().routes()}
    routes = {(route.path, route.method.lower()) for route in Api(Desks([])).routes() if route.path not in page}
    assert routes == {(path, method) for path, methods in document()["paths"].items() for method in methods}


def test_every_schema_is_used() -> None:
    text = json.dumps(document())
    for name in document()["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, name


class Running:
    """A popproxy with a port and a token, and a session in it."""

    def __init__(self, process: Process) -> None:
        (line, *_) = process.until(lambda: process.lines("admin_listening"))
        self.url = f"http://{line['address']}"
        process.until(lambda: process.lines("started"))
        self.process = process


@pytest.fixture(scope="module")
def popproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("openapi")

    def serves(peer: Peer) -> None:
        peer.login()
        peer.socket.settimeout(None)
        peer.until_gone()

    with Upstream(serves) as upstream:
        path = directory / "popproxy.toml"
        path.write_text(CONFIG.format(server=upstream.url, token=TOKEN))
        with program(directory, "serve", "--config", str(path)) as process:
            running = Running(process)
            (line,) = process.lines("listening")
            host, _, port = line["address"].rpartition(":")
            with WireClient((host, int(port)), timeout=PATIENCE) as client:
                client.user_pass(b"alice", b"secret")
                yield running
            assert not process.lines("internal_error") and not process.lines("library")


def operations() -> list[Any]:
    found = [result.ok() for result in SCHEMA.get_all_operations()]
    return [one for one in found if one.path not in NOT_FUZZED]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
@pytest.mark.parametrize("operation", operations(), ids=lambda one: one.label)
def test_it_keeps_to_the_document(operation: Any, mode: GenerationMode, popproxy: Running) -> None:
    """No 5xx, no status and no answer that the document does not have; what is wrong is refused, what is right not."""
    if mode is GenerationMode.NEGATIVE and not (operation.query or operation.body):
        return
    play(operation, mode, popproxy)


def play(operation: Any, mode: GenerationMode, popproxy: Running) -> None:
    """Ask for ``operation`` again and again, as hypothesis says."""
    checks = CHECKS.get_by_names([name for name in CHECKS.get_all_names() if name not in LEFT_OUT])

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def once(case: Any) -> None:
        case.call_and_validate(
            base_url=popproxy.url,
            headers={"Authorization": f"Bearer {TOKEN}"},
            checks=checks,
            timeout=PATIENCE,
        )

    once()


def test_it_would_be_seen(popproxy: Running) -> None:
    """A document that promises more than there is, and one that allows less, are found out."""
    for path, spoil in (("/v1/status", _promise), ("/v1/sessions", _forbid)):
        told = document()
        told = json.loads(json.dumps(told))
        spoil(told)
        schema = schemathesis.openapi.from_dict({**told, "paths": {path: told["paths"][path]}})
        (operation,) = (result.ok() for result in schema.get_all_operations())
        with pytest.raises((schemathesis.errors.SchemathesisError, BaseExceptionGroup, AssertionError)):
            play(operation, GenerationMode.POSITIVE, popproxy)


def _promise(told: dict[str, Any]) -> None:
    told["components"]["schemas"]["Status"]["required"].append("moon")


def _forbid(told: dict[str, Any]) -> None:
    told["components"]["schemas"]["Sessions"]["properties"]["matched"] = {"type": "string"}


def test_every_operation_wants_the_token(popproxy: Running) -> None:
    host = popproxy.url.removeprefix("http://")
    for path, methods in document()["paths"].items():
        for method in methods:
            connection = http.client.HTTPConnection(host, timeout=PATIENCE)
            connection.request(method.upper(), path.replace("{", "").replace("}", ""))
            assert connection.getresponse().status == 401, (method, path)
            connection.close()
