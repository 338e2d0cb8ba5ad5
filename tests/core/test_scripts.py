"""Every transcript of tests/scripts on the pure session: as the lines come in a row, and octet by octet."""

from __future__ import annotations

from pathlib import Path

import pytest

from popproxy.api.testing import play
from popproxy.api.transcript import Transcript, load_transcript
from tests.cast import cast
from tests.core import contentplugins

SCRIPTS = [load_transcript(path) for path in sorted((Path(__file__).parents[1] / "scripts").glob("*.pop3"))]


def stem(transcript: Transcript) -> str:
    return Path(transcript.name).stem


WAYS = [
    pytest.param(transcript, pieces, id=f"{stem(transcript)}-{pieces}")
    for transcript in SCRIPTS
    for pieces in ("whole", "octets")
    # A script may be about how octets are cut.
    if transcript.options.get("pieces", pieces) == pieces
]


@pytest.mark.parametrize(("transcript", "pieces"), WAYS)
def test_script(transcript: Transcript, pieces: str) -> None:
    plugins, transcript = cast(transcript)
    played = play(plugins, transcript, pieces=pieces)
    assert played.summary is not None
    assert played.summary.octets_sent == len(played.client)
    assert not played.errors


@pytest.mark.parametrize("pieces", ["whole", "octets"])
@pytest.mark.parametrize("transcript", contentplugins.SCRIPTS, ids=stem)
def test_script_with_plugins(transcript: Transcript, pieces: str) -> None:
    played = play(contentplugins.PLUGINS[stem(transcript)], transcript, pieces=pieces)
    assert not played.errors


def test_there_are_scripts() -> None:
    assert {stem(transcript) for transcript in contentplugins.SCRIPTS} == set(contentplugins.PLUGINS)
    assert len(SCRIPTS) >= 80
    numbers = {stem(transcript).split("_")[1] for transcript in SCRIPTS if stem(transcript).startswith("edge_")}
    assert numbers == {f"{number:02}" for number in range(1, 16)}


def test_promise_1_a_quit_upstream_is_one_the_client_sent() -> None:
    for transcript in SCRIPTS:
        played = play(*cast(transcript))
        asked = "C: QUIT" in str(transcript) or '"QUIT' in str(transcript) or "QUIT\\n" in str(transcript)
        assert asked or b"QUIT" not in played.upstream, transcript.name
