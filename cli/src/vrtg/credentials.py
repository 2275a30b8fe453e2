"""Keys, tokens and kubeconfigs of the embedded stack; made once, renewed before they expire, 0600."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

from vrtg.failures import CommandError
from vrtg.home import Home, write_private

DAYS = 825
"""Life of a certificate; one that has less than a third of it left is issued anew at the next start."""
ADMIN, CONTROLLER = "admin", "controller"


def make_credentials(home: Home) -> None:
    """Whatever is missing or about to expire: authority, server and client certificates, tokens.

    Raises:
        CommandError: the directory cannot be written, or what it holds is broken.
    """
    from common import pki, tls

    try:
        authority, hosts = pki.Authority.create(home.pki / "ca"), ["127.0.0.1", "localhost"]
        authority.issue(home.pki / "apiserver", "virtrigaud-apiserver", hosts, DAYS, end=pki.End.SERVER)
        authority.issue(home.pki / "controller", tls.CONTROLLER, days=DAYS, end=pki.End.CLIENT)
        authority.issue(home.client_tls, tls.OPERATOR, days=DAYS, end=pki.End.CLIENT)
    except tls.TlsError as error:
        raise CommandError(f"{error} (remove {home.pki} to have all keys made anew)") from error
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
