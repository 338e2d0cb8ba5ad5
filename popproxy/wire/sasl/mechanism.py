"""What both sides of every mechanism look like. Data goes in and out of a mechanism decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from popproxy.wire.sasl.identity import Identity
from popproxy.wire.sasl.keys import Derivation, Verifier
from popproxy.wire.sasl.lines import SaslError

# Server side


@dataclass(frozen=True, slots=True)
class Challenge:
    """Send ``data`` (not yet base64) as a challenge and give the client's answer to respond().

    Not in the repr: a later challenge can hold a salt or a nonce.
    """

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Complete:
    """The mechanism has all it needs. Whether ``identity`` may log in is for others to decide.

    ``challenge`` is what the secret of an identity with a DIGEST answers.
    """

    identity: Identity
    challenge: bytes = b""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The mechanism cannot go on without the verifier of ``user``: give it one by supply(), a fake one if need be."""

    user: str


Step = Challenge | Complete | Wanted


class ServerMechanism(ABC):
    """One exchange with one client: start() once, then respond() for every answer, until Complete or SaslError.

    SCRAM comes to Wanted on its way, which is answered by supply().
    """

    name: bytes

    @abstractmethod
    def start(self, initial: bytes | None) -> Step:
        """``initial`` is the decoded initial response, None when the client sent none. Raises SaslError."""

    @abstractmethod
    def respond(self, data: bytes) -> Step:
        """``data`` is the client's decoded answer to the last Challenge. Raises SaslError."""

    def supply(self, verifier: Verifier) -> Step:
        """The answer to Wanted. Raises SaslError."""
        raise SaslError("sequence", f"{self.name.decode()} wants no verifier")

    def refused(self) -> bytes | None:
        """The data of a last challenge that must be sent and answered before the ``-ERR``, or None.

        Call it when an identity that was Complete is not let in because of its secret (RFC 7628 section 3.2.2: the
        error document); the client's answer to it is dropped.
        """
        return None


# Client side


class ClientMechanism(ABC):
    """One exchange with one server on behalf of an Identity.

    Open with ``command_line(name, initial())``. Where the initial response cannot travel in the command, open
    without it and answer the server's first, empty challenge with ``initial()``. Every other challenge goes
    to respond().
    """

    name: bytes
    messages: ClassVar[int]
    """How many messages the client sends until it has said all; a success before that proves nothing."""
    reads_challenges: ClassVar[bool]
    """False: the answers do not depend on the challenges, and a server whose prompt is not even base64 (they
    exist) may be served with respond(b"")."""
    failed = False
    """Whether the server has told of a failure inside the exchange; only ``-ERR`` may follow."""
    document = b""
    """How it told so, as far as others may know (RFC 7628 section 3.2.2: an error document, JSON)."""

    @abstractmethod
    def initial(self) -> bytes | None:
        """The first message, not yet base64; None when the server speaks first. Changes nothing."""

    @abstractmethod
    def respond(self, challenge: bytes) -> bytes | Derivation:
        """The answer to a decoded challenge, or what must be computed before there is one: then it comes from
        derived(). Raises SaslError("sequence") for one more than there are answers, SaslError("syntax") for one that
        makes no sense, SaslError("proof") when the server does not prove what it has to."""

    def derived(self, salted: bytes) -> bytes:
        """The answer, when a Derivation is computed. Raises SaslError."""
        raise SaslError("sequence", f"{self.name.decode()} derives nothing")
