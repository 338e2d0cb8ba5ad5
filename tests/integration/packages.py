"""The Debian packages the integration tests talk to, and how they get onto this machine.

Run as a program before the tests: `python tests/integration/packages.py`. It needs nothing but the standard
library. As root it installs everything that is missing with one apt-get call; no daemon is started by it.

courier-pop and cyrus-pop3d each conflict with every other POP3 server, so at most one of the three can be
*installed*. Their packages hold little more than the POP3 program itself: they are downloaded and unpacked below
`.cache/integration`, and what they depend on is installed as usual.

A package that can not be had is no error here: it is written down with its reason, and `lacking` tells the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "integration"
FAILURES = CACHE / "failures.json"
POLICY = Path("/usr/sbin/policy-rc.d")
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/usr/local/sbin"])

INSTALLED: dict[str, tuple[str, ...]] = {
    "chromium": ("chromium",),
    "courier-authdaemon": ("/usr/lib/courier/courier-authlib/authdaemond",),
    "courier-authlib-userdb": ("userdbpw", "makeuserdb"),
    "courier-base": ("couriertcpd", "couriertls"),
    "curl": ("curl",),
    "cyrus-admin": ("cyradm",),
    "cyrus-common": ("/usr/lib/cyrus/bin/master|/usr/sbin/cyrmaster",),
    "dovecot-pop3d": ("dovecot", "/usr/lib/dovecot/pop3"),
    "fail2ban": ("fail2ban-regex",),
    "faketime": ("faketime",),
    "fetchmail": ("fetchmail",),
    "getmail6": ("getmail",),
    "haproxy": ("haproxy",),
    "jq": ("jq",),
    "libnginx-mod-mail": ("/usr/lib/nginx/modules/ngx_mail_module.so",),
    "libsasl2-modules-db": ("/usr/lib/*/sasl2/libsasldb.so",),
    "mpop": ("mpop",),
    "msmtp-mta": ("sendmail",),
    "nginx": ("nginx",),
    "openssl": ("openssl",),
    "prometheus": ("prometheus", "promtool"),
    "prometheus-alertmanager": ("prometheus-alertmanager", "amtool"),
    "redis-sentinel": ("redis-sentinel",),
    "redis-server": ("redis-server",),
    "redis-tools": ("redis-cli",),
    "rspamd": ("rspamd",),
    "sasl2-bin": ("saslpasswd2",),
    "spamassassin": ("spamassassin",),
    "spamc": ("spamc",),
    "spamd": ("spamd",),
    "systemd": ("systemd-analyze", "systemd-socket-activate", "systemd-sysusers", "systemd-tmpfiles"),
}
"""Package: its programs, all of which must be there. A name in PATH, or a path; `*` globs, `|` means either."""

UNPACKED: dict[str, tuple[str, ...]] = {
    "courier-pop": ("usr/lib/courier/courier/courierpop3d", "usr/lib/courier/courier/courierpop3login"),
    "cyrus-pop3d": ("usr/lib/cyrus/bin/pop3d",),
}
"""Package: its programs, below `unpacked(package)`."""

NEEDS: dict[str, tuple[str, ...]] = {
    "courier-pop": ("courier-base", "courier-authdaemon", "courier-authlib-userdb"),
    "cyrus-pop3d": ("cyrus-common", "libsasl2-modules-db", "sasl2-bin"),
}
"""An unpacked package is of use only with these."""


def unpacked(package: str) -> Path:
    """Where `package` of UNPACKED lies: the root of its file tree."""
    return CACHE / package


def program(name: str) -> str:
    """The full path of a program, also one in an sbin directory; FileNotFoundError when there is none."""
    found = shutil.which(name, path=PATH)
    if found is None:
        raise FileNotFoundError(f"no program {name!r} in {PATH}")
    return found


def lacking(package: str) -> str | None:
    """Why `package` can not be used here, or None when it can."""
    missing = [name for name in (package, *NEEDS.get(package, ())) if not _present(name)]
    if not missing:
        return None
    reasons = _recorded()
    return "; ".join(f"{name}: {reasons.get(name, 'not installed')}" for name in missing)


def main() -> int:
    """Install what is missing. Always 0: a package that can not be had is reported, here and by its tests."""
    missing = [name for name in INSTALLED if not _present(name)]
    failures: dict[str, str] = {}
    if missing:
        print(f"integration packages missing: {' '.join(missing)}", flush=True)
        failures |= _install(missing)
    for name in UNPACKED:
        if not _present(name):
            reason = _unpack(name)
            if reason is not None:
                failures[name] = reason
    CACHE.mkdir(parents=True, exist_ok=True)
    FAILURES.write_text(json.dumps(failures, indent=1, sort_keys=True) + "\n")
    for name, reason in sorted(failures.items()):
        print(f"integration package {name} is not available, its tests will be skipped: {reason}", file=sys.stderr)
    if not failures:
        print("integration packages: all present")
    return 0


def _present(package: str) -> bool:
    if package in UNPACKED:
        return all((unpacked(package) / path).is_file() for path in UNPACKED[package])
    return all(any(_exists(name) for name in names.split("|")) for names in INSTALLED[package])


def _exists(name: str) -> bool:
    if not name.startswith("/"):
        return shutil.which(name, path=PATH) is not None
    return any(Path("/").glob(name.lstrip("/")))


def _recorded() -> dict[str, str]:
    try:
        record = json.loads(FAILURES.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return {str(name): str(reason) for name, reason in record.items()}


def _install(missing: Sequence[str]) -> dict[str, str]:
    """Install all of `missing` in one call; package: reason, for those still missing afterwards."""
    if shutil.which("apt-get", path=PATH) is None:
        return dict.fromkeys(missing, "this machine has no apt-get")
    if os.geteuid() != 0:
        return dict.fromkeys(missing, f"not root; run: sudo {sys.executable} {Path(__file__).resolve()}")
    with _daemons_stay_down():
        error = _apt("install", "--yes", "--no-remove", "--no-install-recommends", *missing, as_needed=True)
    return {name: error or "installed, but its programs are not there" for name in missing if not _present(name)}


def _unpack(package: str) -> str | None:
    """Download and unpack one package below CACHE; the reason if that failed."""
    if shutil.which("apt-get", path=PATH) is None or shutil.which("dpkg-deb", path=PATH) is None:
        return "this machine has no apt-get or no dpkg-deb"
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        directory = Path(name)
        directory.chmod(0o755)
        error = _apt("download", package, as_needed=os.geteuid() == 0, cwd=directory)
        debs = sorted(directory.glob("*.deb"))
        if error is not None or not debs:
            return error or "apt-get download brought no file"
        tree = directory / "tree"
        done = _run(["dpkg-deb", "--extract", str(debs[0]), str(tree)], directory)
        if done is not None:
            return done
        shutil.rmtree(unpacked(package), ignore_errors=True)
        tree.rename(unpacked(package))
    return None if _present(package) else "unpacked, but its programs are not there"


def _apt(*arguments: str, as_needed: bool, cwd: Path = ROOT) -> str | None:
    """Run apt-get; on failure once more after `apt-get update` (if `as_needed`), then once more after a pause."""
    command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]
    error = _run([*command, *arguments], cwd)
    for pause in (0, 10):
        if error is None:
            return None
        time.sleep(pause)
        if as_needed:
            _run([*command, "update"], cwd)
        error = _run([*command, *arguments], cwd)
    return error


def _run(command: Sequence[str], cwd: Path) -> str | None:
    """None when the command succeeds, else one line: the command and the last thing it complained about."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "PATH": PATH, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=1200, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    if done.returncode == 0:
        return None
    complaints = [line for line in done.stderr.splitlines() if line.startswith(("E:", "dpkg", "apt-get:"))]
    last = (complaints or done.stderr.splitlines() or done.stdout.splitlines() or ["no message"])[-1]
    verb = " ".join(word for word in command[1:] if word in ("install", "download", "--extract"))
    return f"{command[0]} {verb} ended with {done.returncode}: {last.strip()}"


@contextmanager
def _daemons_stay_down() -> Iterator[None]:
    """While packages are installed their maintainer scripts start no daemon. An existing policy is left alone."""
    try:
        descriptor = os.open(POLICY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    except FileExistsError:
        yield
        return
    try:
        with os.fdopen(descriptor, "w") as policy:
            policy.write("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
