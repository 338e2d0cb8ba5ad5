"""The config as it may be shown: everything in force, and no secret in it, whatever a plugin's author forgot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import AfterValidator, BaseModel, Secret, SecretBytes, SecretStr

from popproxy.api import Plugin, PluginConfig
from popproxy.config import registry
from popproxy.config.load import load
from popproxy.config.models import Config
from popproxy.config.shown import HIDDEN
from tests.net.running import pem
from tests.net.tlspeers import CERTIFICATE

WORD = "do-not-show-me-"


class Inner(PluginConfig):
    """Options of a plugin's own table."""

    client_secret: str = ""
    note: str = ""


class Options(PluginConfig):
    """Whatever a plugin's author may write."""

    typed: SecretStr = SecretStr("")
    octets: SecretBytes = SecretBytes(b"")
    password: str = ""
    api_key: str = ""
    tokens: tuple[str, ...] = ()
    headers: Mapping[str, str] = {}
    url: str = ""
    table: Inner = Inner()
    credentials: Inner = Inner()
    by_name: Mapping[str, Mapping[str, str]] = {}
    auth: Literal["plain", "none"] = "none"
    key_file: Path | None = None
    limit: int = 7
    plain: str = ""
    # Declared as secrets under harmless names, and no secrets any more when they are shown.
    sesame: str | SecretStr = ""
    opener: Annotated[SecretStr, AfterValidator(SecretStr.get_secret_value)] = SecretStr("")
    by_host: Mapping[str, str | SecretStr] = {}
    several: tuple[SecretStr | str, ...] = ()
    number: Secret[int] = Secret(0)


class Forgetful(Plugin[Options]):
    """Has them."""

    config_model = Options


def secrets() -> Iterator[str]:
    for number in range(99):
        yield f"{WORD}{number:02d}-and-more"


def test_no_secret_is_shown_and_the_rest_is(tmp_path: Path) -> None:
    made = secrets()
    key = load_pem_private_key(CERTIFICATE.private_key_pem.bytes(), None)
    password = next(made)
    (tmp_path / "mail.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode()),
        )
    )
    (tmp_path / "mail.key").chmod(0o600)
    chain = pem(tmp_path / "mail.pem", CERTIFICATE)
    (tmp_path / "file").write_text(next(made))
    config = tmp_path / "popproxy.toml"
    certificate = f'{{ cert = "{chain}", key = "{tmp_path}/mail.key", password = "{password}" }}'
    config.write_text(
        f"""
[[listener]]
name = "main"
bind = ["127.0.0.1:0"]
tls = "starttls"
[tls]
certificates = [{certificate}]
[upstream.main]
servers = ["pop3://mail.example.com"]
client_certificate = {certificate}
[store]
use = "redis"
url = "rediss://store.example.com/0"
username = "popproxy"
password = "{next(made)}"
[protocol]
decoy_secret = {{ file = "{tmp_path}/file" }}
[log]
users = "hashed"
salt = "{next(made)}"
[admin]
bind = "127.0.0.1:9110"
token = "{next(made)}"
[[plugin]]
use = "{__name__}:Forgetful"
when = {{ user = ["*@example.com"] }}
typed = "{next(made)}"
octets = "{next(made)}"
password = "{next(made)}"
api_key = "{next(made)}"
tokens = ["{next(made)}"]
headers = {{ Authorization = "Bearer {next(made)}" }}
url = "https://user:{next(made)}@example.com/path?key={next(made)}&x=1"
table = {{ client_secret = "{next(made)}", note = "shown" }}
credentials = {{ note = "{next(made)}" }}
by_name = {{ one = {{ password = "{next(made)}" }} }}
auth = "plain"
key_file = "/etc/popproxy/some.key"
plain = "shown too"
sesame = "{next(made)}"
opener = "{next(made)}"
by_host = {{ one = "{next(made)}", two = {{ file = "{tmp_path}/file" }} }}
several = ["{next(made)}", {{ file = "{tmp_path}/file" }}]
number = 4711
"""
    )
    shown = load(config).plan.shown
    text = json.dumps(shown)
    assert WORD not in text
    assert shown["admin"]["token"] == shown["log"]["salt"] == shown["store"]["password"] == HIDDEN
    assert shown["tls"]["certificates"][0]["password"] == HIDDEN
    assert shown["protocol"]["decoy_secret"] == HIDDEN
    assert shown["upstream"]["main"]["servers"] and shown["timeouts"]["idle"] == 600
    (plugin,) = shown["plugin"]
    options = plugin["options"]
    assert plugin["when"]["user"] == ["*@example.com"]
    assert options["url"] == f"https://example.com/path?key={HIDDEN}&x={HIDDEN}"
    assert options["headers"] == {"Authorization": HIDDEN} and options["tokens"] == [HIDDEN]
    assert options["table"] == {"client_secret": HIDDEN, "note": "shown"}
    assert options["credentials"]["note"] == HIDDEN and options["by_name"] == {"one": {"password": HIDDEN}}
    assert (options["auth"], options["limit"], options["plain"]) == ("plain", 7, "shown too")
    assert options["key_file"] == "/etc/popproxy/some.key"
    assert options["sesame"] == options["opener"] == options["number"] == HIDDEN
    assert options["by_host"] == {"one": HIDDEN, "two": HIDDEN} and options["several"] == [HIDDEN, HIDDEN]


OURS = {
    "auth_http.secret": 'servers = ["http://127.0.0.1:9000/auth"]\nsecret = "{0}"',
    "auth_rewrite.password": 'password = "{0}"',
    "auth_rewrite.password_template": 'password_template = "{{user}}-{0}"',
    "brute_force.secret": 'secret = "{0}"',
    "otel.headers": 'headers = {{ Whatever = "{0}" }}',
    "spam.password": 'source = "rspamd"\npassword = "{0}"',
}
"""Options of the plugins that come with popproxy, one secret in each."""


@pytest.mark.parametrize("key", OURS)
@pytest.mark.parametrize("source", ["text", "file"])
def test_a_plugin_of_ours_shows_no_secret(key: str, source: str, tmp_path: Path) -> None:
    use, _, name = key.partition(".")
    secret = next(secrets())
    options = OURS[key].format(secret)
    if source == "file":
        (tmp_path / "file").write_text(secret if "{user}" not in options else f"{{user}}-{secret}")
        before, _, behind = options.rpartition(' "')
        options = f'{before} {{ file = "file" }}{behind.partition(chr(34))[2]}'
        assert WORD not in options
    config = tmp_path / "popproxy.toml"
    config.write_text(
        '[[listener]]\nname = "a"\nbind = ["127.0.0.1:0"]\ntls = "off"\nauth_before_tls = "allow"\n'
        f'[upstream.main]\nservers = ["pop3+clear://127.0.0.1"]\n[[plugin]]\nuse = "{use}"\n{options}\n'
    )
    plan = load(config).plan
    (plugin,) = plan.shown["plugin"]
    assert HIDDEN in json.dumps(plugin["options"][name])
    assert WORD not in json.dumps(plan.shown)
    model = plan.plugins[0].plugin.config
    assert WORD not in repr(model) and WORD in json.dumps(model.model_dump(), default=SecretStr.get_secret_value)


def test_every_secret_of_a_plugin_of_ours_is_tried() -> None:
    found = {f"{use}.{key}" for use in registry.known() for key in secret_keys(registry.find(use).config_model)}
    assert found == set(OURS)


def secret_keys(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The keys of a config that hold secrets, by their types."""
    for name, field in model.model_fields.items():
        for kind in kinds(field.annotation):
            if isinstance(kind, type) and issubclass(kind, SecretStr | SecretBytes):
                yield f"{path}{name}"
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from secret_keys(kind, f"{path}{name}.")


def kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from kinds(part)


def test_the_test_above_has_a_secret_for_every_key_that_holds_one() -> None:
    """But for sentinels' password, of which the store's own tests know, and a key that Redis cannot have."""
    assert set(secret_keys(Config)) == {
        "tls.certificates.password",
        "upstream.client_certificate.password",
        "store.client_certificate.password",
        "store.password",
        "store.sentinel_password",
        "protocol.decoy_secret",
        "log.salt",
        "admin.token",
    }


@pytest.mark.parametrize("name", ["headers"])
def test_options_that_were_left_out_are_shown_with_their_defaults(name: str, tmp_path: Path) -> None:
    config = tmp_path / "popproxy.toml"
    config.write_text(
        '[[listener]]\nname = "a"\nbind = ["127.0.0.1:0"]\ntls = "off"\nauth_before_tls = "allow"\n'
        '[upstream.main]\nservers = ["pop3+clear://127.0.0.1"]\n'
        f'[[plugin]]\nuse = "{name}"\nrules = [{{ remove = "X-Key" }}]\n'
    )
    (plugin,) = load(config).plan.shown["plugin"]
    assert (plugin["use"], plugin["name"]) == (name, name)
    assert plugin["options"]["rules"][0]["remove"] == "X-Key"


def test_values_look_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "popproxy.toml"
    path.write_text(
        """[[listener]]
name = "pop3"
bind = ["[::1]:1110"]
tls = "off"
auth_before_tls = "allow"

[upstream.main]
servers = ["pop3://mail1.example.com:1110", { url = "pop3s://mail2.example.com", weight = 2 }]

[overload]
memory = "80%"
"""
    )
    told = load(path).plan.shown
    assert [server["url"] for server in told["upstream"]["main"]["servers"]] == [
        "pop3://mail1.example.com:1110", "pop3s://mail2.example.com:995",
    ]  # fmt: skip
    assert told["upstream"]["main"]["servers"][1]["weight"] == 2
    assert (told["overload"]["memory"], told["overload"]["sockets"]) == ("80%", "90%")
    assert told["listener"][0]["bind"] == ["[::1]:1110"]
    assert "object at" not in json.dumps(told) and "(" not in json.dumps(told)
