"""Credentials: a closed union whose repr, str and tracebacks hide every secret."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any, get_args

import pytest

from popproxy.api import Bearer, Credentials, Digest, External, Password, Verified

ALL = [
    Password("joe", b"sesame", "admin"),
    Bearer("joe", b"sesame", "admin"),
    Verified("joe", "admin"),
    External("joe"),
    Digest("joe", "CRAM-MD5", b"<1@mail>", b"sesame"),
]


def test_the_union_is_closed() -> None:
    assert get_args(Credentials) == (Password, Bearer, Verified, External, Digest)


@pytest.mark.parametrize("credentials", ALL)
def test_repr_hides_the_secret_and_shows_the_user(credentials: Credentials) -> None:
    for shown in (repr(credentials), str(credentials), f"{credentials}", repr([credentials])):
        assert "sesame" not in shown
        assert "joe" in shown


@pytest.mark.parametrize("credentials", ALL)
def test_credentials_are_values_that_cannot_be_changed(credentials: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        credentials.user = "eve"
    with pytest.raises((AttributeError, TypeError)):
        credentials.note = "sesame"
    assert credentials == type(credentials)(*(getattr(credentials, name) for name in credentials.__match_args__))


def test_the_secret_still_counts_in_comparison() -> None:
    assert Password("joe", b"a") != Password("joe", b"b")
    assert Bearer("joe", b"a") != Bearer("joe", b"b")
    assert Digest("joe", "APOP", b"<1@a>", b"0") != Digest("joe", "APOP", b"<1@a>", b"1")


def test_an_authorization_identity_is_empty_unless_it_was_given() -> None:
    assert Password("joe", b"a").authzid == Bearer("joe", b"a").authzid == Verified("joe").authzid == ""


def test_a_password_is_octets() -> None:
    assert Password("joe", b" \xff ").password == b" \xff "
