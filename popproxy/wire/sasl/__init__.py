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
from popproxy.wire.sasl.mechanism import Challenge, ClientMechanism, Complete, ServerMechanism, Step
from popproxy.wire.sasl.plain import LoginClient, LoginServer, PlainClient, PlainServer

SERVER_MECHANISMS: Final[Mapping[bytes, Callable[[], ServerMechanism]]] = MappingProxyType(
    {PlainServer.name: PlainServer, LoginServer.name: LoginServer}
)
"""Name, upper case, to what makes the server side of one exchange."""

CLIENT_MECHANISMS: Final[Mapping[bytes, Callable[[Identity], ClientMechanism]]] = MappingProxyType(
    {PlainClient.name: PlainClient, LoginClient.name: LoginClient}
)
"""Name, upper case, to what makes the client side of one exchange for an Identity."""

__all__ = [
    "CANCEL",
    "CLIENT_MECHANISMS",
    "HASHES",
    "SERVER_MECHANISMS",
    "Challenge",
    "ClientMechanism",
    "Complete",
    "Derivation",
    "Identity",
    "LoginClient",
    "LoginServer",
    "PlainClient",
    "PlainServer",
    "SaslError",
    "Secret",
    "ServerMechanism",
    "Step",
    "Verifier",
    "command_line",
    "decode_challenge",
    "decode_initial",
    "decode_response",
    "encode_challenge",
    "encode_response",
    "fake",
]
