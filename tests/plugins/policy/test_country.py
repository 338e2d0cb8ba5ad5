"""Countries: a database that is made here, replaced while it is in use, missing and broken."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet
from popproxy_plugins.policy.country import parse, problems, read, watched
from popproxy_plugins.policy.match import address, nowhere

from popproxy.api import Fail
from popproxy.api.fakes import FakeClock, FakeServices, World

PLACES: Mapping[str, Mapping[str, Any]] = {
    "192.0.2.0/25": {"country": {"iso_code": "DE", "names": {"en": "Germany"}}},
    "192.0.2.128/25": {"registered_country": {"iso_code": "AT"}},
    "198.51.100.0/24": {"continent": {"code": "EU"}},
    "2001:db8::/32": {"country": {"iso_code": "FR"}, "registered_country": {"iso_code": "DE"}},
}


def made(
    path: Path,
    places: Mapping[str, Mapping[str, Any]] = PLACES,
    version: int = 6,
    kind: str = "GeoLite2-Country",
) -> Path:
    """A database at ``path``, put there by renaming."""
    writer = MMDBWriter(ip_version=version, database_type=kind, ipv4_compatible=version == 6)
    for network, record in places.items():
        writer.insert_network(IPSet([network]), dict(record))
    fresh = path.with_name(path.name + ".new")
    writer.to_db_file(str(fresh))
    return fresh.replace(path)


@pytest.mark.parametrize(
    ("client", "country"),
    [
        ("192.0.2.1", "DE"),
        ("::ffff:192.0.2.1", "DE"),
        ("192.0.2.200", "AT"),
        ("198.51.100.1", "unknown"),
        ("203.0.113.1", "unknown"),
        ("2001:db8::1", "FR"),
        ("2001:db9::1", "unknown"),
    ],
)
def test_where_an_address_is(tmp_path: Path, client: str, country: str) -> None:
    found = address(client)
    assert found is not None
    assert read(made(tmp_path / "db"))(found) == country


def test_a_database_of_ipv4_knows_no_ipv6(tmp_path: Path) -> None:
    locate = read(made(tmp_path / "db", {"192.0.2.0/24": PLACES["192.0.2.0/25"]}, version=4))
    found = [address(text) for text in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1")]
    assert [locate(one) for one in found if one is not None] == ["DE", "DE", "unknown"]


def test_without_a_database_everything_is_unknown() -> None:
    assert read(None) is nowhere
    assert list(problems(None)) == []


def told(path: Path) -> str:
    (problem,) = problems(path)
    assert problem.key == ("countries",)
    return problem.message


def test_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("DE 192.0.2.0/24\n")
    (tmp_path / "empty").write_bytes(b"")
    whole = made(tmp_path / "db").read_bytes()
    (tmp_path / "cut").write_bytes(whole[len(whole) // 2 :])
    instead = "is no MaxMind database: write the path of one like GeoLite2-Country.mmdb"
    for name in ("text", "empty", "cut"):
        assert told(tmp_path / name) == f"{tmp_path / name} {instead}"
    assert "is a database of GeoLite2-ASN, not of countries: write" in told(made(tmp_path / "asn", kind="GeoLite2-ASN"))
    assert "cannot read" in told(tmp_path / "nowhere")
    assert list(problems(made(tmp_path / "city", kind="GeoIP2-City"))) == []


def test_the_module_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "maxminddb", None)
    assert told(made(tmp_path / "db")) == (
        'a database of countries needs the module maxminddb: pip install "popproxy[geo]", or write no countries'
    )
    with pytest.raises(ValueError, match=r'pip install "popproxy\[geo\]"'):
        parse(b"")


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    async def follow() -> list[str]:
        services = FakeServices(FakeClock(), World(), Fail.CLOSED)
        path = made(tmp_path / "db")
        locate = await watched(services, path)
        client = address("192.0.2.1")
        assert client is not None
        told = [locate(client)]
        made(path, {"192.0.2.0/24": {"country": {"iso_code": "CH"}}})
        told.append(locate(client))
        path.write_bytes(b"broken")
        return [*told, locate(client)]

    assert asyncio.run(follow()) == ["DE", "CH", "CH"]
