"""FLOOR 4, beside net: a small, honest POP3 server over a Maildir, for the demo, tests and plugin authors.

Small: one maildrop a user, passwords in memory. Honest: what CAPA announces works, sizes are octets on the
wire, nothing is deleted before UPDATE, and a body that breaks is never ended as if it were whole.
"""

from popproxy.sample.letters import write_sample
from popproxy.sample.server import SampleServer

__all__ = ["SampleServer", "write_sample"]
