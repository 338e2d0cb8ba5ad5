"""The PROXY protocol, versions 1 and 2 (HAProxy doc/proxy-protocol.txt): who the client of a proxied connection is.

Law: the octets behind the header belong to somebody else (often to a TLS handshake), so a decoder says how many it
may be given and never needs one more. What does not match the specification exactly ends the connection: a header
that is half understood would be a client address that anybody may choose. LOCAL, UNKNOWN and whatever is not a
stream are valid and speak of nobody: the addresses of the socket stay.
"""

from popproxy.wire.proxyline.decode import ProxyDecoder
from popproxy.wire.proxyline.encode import encode_v1, encode_v2, tls_vector, ttl_vector
from popproxy.wire.proxyline.values import V1_LIMIT, V2_LIMIT, Address, ProxyError, ProxyHeader, ProxyTls, Reason, Tlv

__all__ = [
    "V1_LIMIT",
    "V2_LIMIT",
    "Address",
    "ProxyDecoder",
    "ProxyError",
    "ProxyHeader",
    "ProxyTls",
    "Reason",
    "Tlv",
    "encode_v1",
    "encode_v2",
    "tls_vector",
    "ttl_vector",
]
