"""Who issues tokens: an OAuth introspection end point (RFC 7662) on the loopback, which Dovecot asks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from tests.integration.daemon import SECRETS


class Issuer:
    """``owners`` says whose each token is; ``url`` is where to ask."""

    def __init__(self) -> None:
        self.owners: dict[str, str] = {}
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            """POST token=..."""

            def do_POST(self) -> None:
                asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                owner = issuer.owners.get(asked.get("token", [""])[0])
                answer = {"active": False} if owner is None else {"active": True, "username": owner}
                body = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: a failure shows Dovecot's log."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/introspect"

    def issue(self, user: str, octets: int = 3000) -> bytes:
        """A new token of about so many octets. Dovecot takes no line of 8 KiB, mpop no token of 2."""
        token = f"ya29.{len(self.owners)}-" + "aZ09._~+/" * (octets // 9) + "=="
        self.owners[token] = user
        SECRETS.add(token.encode())
        return token.encode()


@contextmanager
def issuing() -> Iterator[Issuer]:
    """An issuer that answers until the block is left."""
    issuer = Issuer()
    thread = threading.Thread(target=issuer.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        issuer.server.shutdown()
        issuer.server.server_close()
        thread.join(10)
