"""What both sides of every mechanism look like. Data goes in and out of a mechanism decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from popproxy.wire.sasl.identity import Identity

# Server side


@dataclass(frozen=True, slots=True)
class Challenge:
    """Send ``data`` (not yet base64) as a challenge and give the client's answer to respond().

    Not in the repr: a later challenge can hold a salt or a nonce.
    """

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Complete:
    """The mechanism has all it needs. Whether ``identity`` may log in is for others to decide."""

    identity: Identity


Step = Challenge | Complete


class ServerMechanism(ABC):
    """One exchange with one client: start() once, then respond() for every answer, until Complete or SaslError.

    A mechanism that needs something from outside before it can go on (SCRAM: the stored keys of a name) adds a
    kind of Step; these two methods stay.
    """

    name: ClassVar[bytes]

    @abstractmethod
    def start(self, initial: bytes | None) -> Step:
        """``initial`` is the decoded initial response, None when the client sent none. Raises SaslError."""

    @abstractmethod
    def respond(self, data: bytes) -> Step:
        """``data`` is the client's decoded answer to the last Challenge. Raises SaslError."""

    def refused(self) -> bytes | None:
        """The data of a last challenge that must be sent and answered before the ``-ERR``, or None.

        Call it when an identity that was Complete is not let in (RFC 7628 section 3.2.2: the error document);
        the client's answer to it is dropped.
        """
        return None


# Client side


class ClientMechanism(ABC):
    """One exchange with one server on behalf of an Identity.

    Open with ``command_line(name, initial())``. Where the initial response cannot travel in the command, open
    without it and answer the server's first, empty challenge with ``initial()``. Every other challenge goes
    to respond().
    """

    name: ClassVar[bytes]
    reads_challenges: ClassVar[bool]
    """False: the answers do not depend on the challenges, and a server whose prompt is not even base64 (they
    exist) may be served with respond(b"")."""

    @abstractmethod
    def initial(self) -> bytes | None:
        """The first message, not yet base64; None when the server speaks first. Changes nothing."""

    @abstractmethod
    def respond(self, challenge: bytes) -> bytes:
        """The answer to a decoded challenge. Raises SaslError("sequence") for one more than there are answers,
        SaslError("syntax") for one that makes no sense."""
