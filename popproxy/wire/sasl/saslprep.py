"""SASLprep (RFC 4013), the profile of stringprep (RFC 3454) for user names and passwords.

Strings are treated as queries (RFC 3454 section 7): code points that Unicode 3.2 did not know pass as they are,
because the peer prepared them the same way.
"""

from __future__ import annotations

import stringprep
import unicodedata
from collections.abc import Callable

from popproxy.wire.sasl.lines import SaslError

_PROHIBITED: tuple[Callable[[str], bool], ...] = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)
"""RFC 4013 section 2.3."""


def saslprep(what: str, text: str) -> str:
    """``text`` prepared. Raises SaslError("identity"), which says ``what`` is wrong and repeats none of it.

    Refused are control and private characters, surrogates, text that mixes directions (RFC 3454 section 6), and
    text of which nothing is left.
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(prohibited(char) for char in prepared for prohibited in _PROHIBITED):
        raise SaslError("identity", f"the {what} holds a character that SASLprep (RFC 4013) prohibits")
    if any(stringprep.in_table_d1(char) for char in prepared):
        ends = stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1])
        if not ends or any(stringprep.in_table_d2(char) for char in prepared):
            raise SaslError("identity", f"the {what} mixes writing directions, which SASLprep (RFC 4013) prohibits")
    if not prepared:
        raise SaslError("identity", f"nothing is left of the {what} after SASLprep (RFC 4013)")
    return prepared
