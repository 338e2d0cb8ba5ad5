"""nginx's mail proxy (nginx, libnginx-mod-mail) with its own configuration, asking an auth_http back end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.daemon import Daemon, listening, private_directory
from tests.integration.packages import program
from tests.integration.proxy import Certificate
from tests.ports import free_ports

MODULE = "/usr/lib/nginx/modules/ngx_mail_module.so"

CONFIG = """
daemon off;
master_process off;
worker_processes 1;
error_log stderr info;
pid {base}/pid;
load_module {module};
events {{ worker_connections 256; }}
mail {{
  server_name popproxy.test;
  auth_http {url};
  auth_http_header X-Auth-Key "secret string";
  auth_http_pass_client_cert on;
  auth_http_timeout 10s;
  pop3_auth plain apop cram-md5 external;
  ssl_certificate {cert};
  ssl_certificate_key {key};
  ssl_client_certificate {ca};
  ssl_verify_client optional;
  server {{ listen 127.0.0.1:{pop3}; protocol pop3; starttls on; proxy on; }}
  server {{ listen 127.0.0.1:{pop3s} ssl; protocol pop3; proxy on; }}
  server {{ listen 127.0.0.1:{proxied} proxy_protocol; set_real_ip_from 127.0.0.0/8; protocol pop3; proxy on; }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A running nginx. ``port`` offers STLS, ``port_tls`` begins with TLS, ``proxied`` with a PROXY header."""

    port: int
    port_tls: int
    proxied: int


@contextmanager
def start(url: str, served: Certificate, ca_file: Path) -> Iterator[Nginx]:
    """nginx, ready; ended by SIGTERM when the block is left."""
    with private_directory("nginx") as base:
        pop3, pop3s, proxied = free_ports(3)
        config = base / "nginx.conf"
        config.write_text(
            CONFIG.format(
                base=base,
                module=MODULE,
                url=url.removeprefix("http://"),
                cert=served.cert,
                key=served.key,
                ca=ca_file,
                pop3=pop3,
                pop3s=pop3s,
                proxied=proxied,
            )
        )
        config.chmod(0o644)
        daemon = Daemon([program("nginx"), "-p", str(base), "-c", str(config), "-e", "stderr"], base / "log")
        try:
            daemon.wait_until(lambda: all(listening("127.0.0.1", port) for port in (pop3, pop3s, proxied)), "listening")
            yield Nginx(pop3, pop3s, proxied)
        finally:
            daemon.stop()
