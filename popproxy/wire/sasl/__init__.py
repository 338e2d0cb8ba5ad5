"""SASL over POP3 (RFC 5034): the base64 lines, and both sides of the mechanisms.

Law: what leaves this room is safe on any wire. An Identity holds no NUL, CR or LF, so no later room can cut
a name at a NUL or be made to send a second command. Nothing is trimmed, folded or guessed: what does not fit
the grammar is refused as a whole, and the text of the refusal never repeats what the peer sent.

A new mechanism is one class and one line in a registry. Data goes in and out of a mechanism decoded; only
``lines`` knows base64 and CRLF.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from popproxy.wire.sasl.bearer import INVALID_TOKEN, OAuthBearerClient, OAuthBearerServer, XOAuth2Client, XOAuth2Server
from popproxy.wire.sasl.digest import CramMd5Server, answer, timestamp
from popproxy.wire.sasl.identity import Identity, Secret
from popproxy.wire.sasl.keys import HASHES, Derivation, Verifier, fake
from popproxy.wire.sasl.lines import (
    CANCEL,
    SaslError,
    command_line,
    decode_challenge,
    decode_initial,
    decode_response,
    encode_challenge,
    encode_response,
)
from popproxy.wire.sasl.mechanism import Challenge, ClientMechanism, Complete, ServerMechanism, Step, Wanted
from popproxy.wire.sasl.plain import LoginClient, LoginServer, PlainClient, PlainServer
from popproxy.wire.sasl.scram import ScramClient, ScramServer

SERVER_MECHANISMS: Final[Mapping[bytes, Callable[[bytes], ServerMechanism]]] = MappingProxyType(
    {
        b"SCRAM-SHA-256": lambda nonce: ScramServer("SCRAM-SHA-256", nonce),
        b"SCRAM-SHA-1": lambda nonce: ScramServer("SCRAM-SHA-1", nonce),
        b"OAUTHBEARER": lambda nonce: OAuthBearerServer(),
        b"XOAUTH2": lambda nonce: XOAuth2Server(),
        b"PLAIN": lambda nonce: PlainServer(),
        b"LOGIN": lambda nonce: LoginServer(),
        b"CRAM-MD5": CramMd5Server,
    }
)
"""Name, upper case, to what makes the server side of one exchange of a nonce: letters, digits, ``-`` and ``_``, never
used before. The strongest first."""

CLIENT_MECHANISMS: Final[Mapping[bytes, Callable[[Identity, bytes], ClientMechanism]]] = MappingProxyType(
    {
        b"SCRAM-SHA-256": lambda identity, nonce: ScramClient("SCRAM-SHA-256", identity, nonce),
        b"OAUTHBEARER": lambda identity, nonce: OAuthBearerClient(identity),
        b"XOAUTH2": lambda identity, nonce: XOAuth2Client(identity),
        b"PLAIN": lambda identity, nonce: PlainClient(identity),
        b"LOGIN": lambda identity, nonce: LoginClient(identity),
    }
)
"""Name, upper case, to what makes the client side of one exchange for an Identity, of a nonce."""

__all__ = [
    "CANCEL",
    "CLIENT_MECHANISMS",
    "HASHES",
    "INVALID_TOKEN",
    "SERVER_MECHANISMS",
    "Challenge",
    "ClientMechanism",
    "Complete",
    "CramMd5Server",
    "Derivation",
    "Identity",
    "LoginClient",
    "LoginServer",
    "OAuthBearerClient",
    "OAuthBearerServer",
    "PlainClient",
    "PlainServer",
    "SaslError",
    "ScramClient",
    "ScramServer",
    "Secret",
    "ServerMechanism",
    "Step",
    "Verifier",
    "Wanted",
    "XOAuth2Client",
    "XOAuth2Server",
    "answer",
    "command_line",
    "decode_challenge",
    "decode_initial",
    "decode_response",
    "encode_challenge",
    "encode_response",
    "fake",
    "timestamp",
]
