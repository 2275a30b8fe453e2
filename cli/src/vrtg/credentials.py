"""Keys, tokens and kubeconfigs of the embedded stack; made once, renewed before they expire, 0600."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

from vrtg.home import Home, write_private

DAYS = 365
RENEW_DAYS = 60
"""A certificate with less than this left is issued anew at the next start."""
ADMIN, CONTROLLER = "admin", "controller"


def make_credentials(home: Home) -> None:
    """Whatever is missing or about to expire: authority, server and client certificates, tokens."""
    from common import pki

    directory = home.pki / "ca"
    authority = pki.Authority.load(directory) if (directory / "ca.crt").exists() else pki.Authority.create(directory)
    sans = {"apiserver": ["127.0.0.1", "localhost"], "controller": [], "client": []}
    for name, names in sans.items():
        if _needs_renewal(home.pki / name / "tls.crt"):
            authority.issue(home.pki / name, f"virtrigaud-{name}", sans=names, days=DAYS)
    if not home.token.exists():
        lines = [
            f'{secrets.token_urlsafe(32)},virtrigaud-admin,{ADMIN},"system:masters"',
            f'{secrets.token_urlsafe(32)},virtrigaud-controller,{CONTROLLER},"system:masters"',
        ]
        write_private(home.token, "\n".join(lines) + "\n")


def write_kubeconfig(home: Home, server: str) -> None:
    """The user's kubeconfig and the controller's; a file that says the same already is left alone."""
    for uid, path in ((ADMIN, home.kubeconfig), (CONTROLLER, controller_kubeconfig(home))):
        text = _kubeconfig(server, (home.pki / "apiserver" / "ca.crt").read_bytes(), _token(home, uid), uid)
        if not path.exists() or path.read_text() != text:
            write_private(path, text)


def controller_kubeconfig(home: Home) -> Path:
    return home.run / "controller.kubeconfig"


def _token(home: Home, uid: str) -> str:
    for line in home.token.read_text().splitlines():
        token, _, rest = line.partition(",")
        if rest.split(",")[1] == uid:
            return token
    raise LookupError(f"{home.token} has no token for {uid}: remove the file, and it is made anew")


def _needs_renewal(certificate: Path) -> bool:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509

    if not certificate.exists():
        return True
    parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
    return parsed.not_valid_after_utc - datetime.now(UTC) < timedelta(days=RENEW_DAYS)


def _kubeconfig(server: str, ca: bytes, token: str, user: str) -> str:
    return f"""apiVersion: v1
kind: Config
current-context: virtrigaud
clusters:
- name: virtrigaud
  cluster:
    server: {server}
    certificate-authority-data: {base64.b64encode(ca).decode()}
contexts:
- name: virtrigaud
  context: {{cluster: virtrigaud, user: {user}, namespace: default}}
users:
- name: {user}
  user: {{token: {token}}}
"""
