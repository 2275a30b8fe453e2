"""Keys, tokens and kubeconfigs of the embedded stack; made once, renewed before they expire, 0600."""

from __future__ import annotations

import base64
import os
import re
import secrets
import uuid
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from vrtg.failures import CommandError, UsageError
from vrtg.home import Home, write_private
from vrtg.kubeconfig import directed

DAYS = 825
"""Life of a certificate; one that has less than a third of it left is issued anew at the next start."""
_OWNER = re.compile(r"^owner:[ \t]*[^\s#]", re.MULTILINE)
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
    _make_tokens(home.token)


def write_kubeconfig(home: Home, server: str) -> None:
    """The user's kubeconfig and the controller's; a file that says the same already is left alone."""
    for uid, path in ((ADMIN, home.kubeconfig), (CONTROLLER, controller_kubeconfig(home))):
        _settle(
            path, _kubeconfig(server, (home.pki / "apiserver" / "ca.crt").read_bytes(), _token(home.token, uid), uid)
        )


def controller_kubeconfig(home: Home) -> Path:
    return home.run / "controller.kubeconfig"


def make_container_credentials(directory: Path, hosts: Sequence[str], server: str) -> None:
    """The same for an API server in a container: `apiserver/` is mounted into it, `kubeconfig/` into the controller.

    `installation/settings.yaml`, for the controller and all providers, holds the id that hypervisors know machines by.

    Args:
        hosts: names of the server; the controller's kubeconfig has the first.
        server: the administrator's URL; its host is added to the names, the controller's URL has its port.
    Raises:
        CommandError: the directory cannot be written, or what it holds is broken.
    """
    from common import pki, tls

    name, port = _name_and_port(server)
    try:
        with pki.alone(directory):
            authority = pki.Authority.create(directory / "ca")
            names = [*hosts, name, "localhost"]
            files = authority.issue(directory / "apiserver", "virtrigaud-apiserver", names, DAYS, end=pki.End.SERVER)
            _make_container_files(directory, hosts[0], port, server, files.ca.read_bytes())
    except ValueError as error:
        raise UsageError(f"--host: {error}") from error
    except tls.TlsError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        place = error.filename or directory
        raise CommandError(f"{place} cannot be used: {error.strerror}; check its owner and mode") from error


def _make_container_files(directory: Path, host: str, port: int, server: str, ca: bytes) -> None:
    """Tokens, kubeconfigs and the installation's id, as far as they are missing."""
    tokens, settings = directory / "apiserver" / "tokens.csv", directory / "installation" / "settings.yaml"
    _make_installation(settings, tokens)
    _make_tokens(tokens)
    configs = (
        (CONTROLLER, directory / "kubeconfig" / "controller", f"https://{_bracketed(host)}:{port}"),
        (ADMIN, directory / "admin" / "kubeconfig", server),
    )
    for uid, path, address in configs:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _settle(path, _kubeconfig(address, ca, _token(tokens, uid), uid))


def _make_installation(settings: Path, tokens: Path) -> None:
    """The id that hypervisors know our machines by. It is made first: where there are tokens and no id, it was lost."""
    settings.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if settings.exists():
        if not _OWNER.search(settings.read_text()):
            raise CommandError(
                f"{settings} has no owner, the id that hypervisors know this installation's machines by: restore it, "
                "or write `owner: ID` with the id that the machines are stamped with"
            )
    elif tokens.exists():
        raise CommandError(
            f"{settings} is lost, and with it the id that hypervisors know this installation's machines by: restore "
            f"it; or, if there are no machines yet, remove {tokens}, and both are made anew"
        )
    else:
        write_private(settings, f"owner: {uuid.uuid4()}\n")


def hand_over(source: Path, directory: Path, server: str | None = None) -> None:
    """Copy a file, or a folder of files, for the owner of the directory: whoever mounted it into a container of ours.

    Args:
        server: the URL that a kubeconfig names afterwards.
    Raises:
        CommandError: something cannot be read or written, or not be given away.
        UsageError: a server for what is no kubeconfig, or one that is no URL.
    """
    if server is not None:
        _name_and_port(server)
    try:
        owner = directory.stat()
        if source.is_dir():
            directory = directory / source.name
            directory.mkdir(mode=0o700, exist_ok=True)
            os.chown(directory, owner.st_uid, owner.st_gid)
        for file in sorted(source.iterdir()) if source.is_dir() else [source]:
            partial = directory / f".{file.name}.partial"
            content = file.read_bytes()
            write_private(partial, content if server is None else directed(file, content, server))
            os.chown(partial, owner.st_uid, owner.st_gid)
            partial.replace(directory / file.name)
    except OSError as error:
        place = error.filename or directory
        raise CommandError(f"{place} cannot be handed over: {error.strerror}; check its owner and mode") from error


def _name_and_port(server: str) -> tuple[str, int]:
    try:
        url = urlsplit(server)
        name, port = url.hostname, url.port
    except ValueError:  # brackets without an address, a port that is no number or beyond 65535
        name, port = None, None
    if name is None or not port or url.scheme != "https" or "@" in url.netloc:
        raise UsageError("--server is no URL like https://127.0.0.1:6443")
    return name, port


def _bracketed(host: str) -> str:
    """A host as URLs have it."""
    return f"[{host}]" if ":" in host else host


def _settle(path: Path, text: str) -> None:
    """Write a private file unless it says the same already."""
    if not path.exists() or path.read_text() != text:
        write_private(path, text)


def _make_tokens(path: Path) -> None:
    """Of the administrator and the controller, unless there are some."""
    if not path.exists():
        lines = [
            f'{secrets.token_urlsafe(32)},virtrigaud-admin,{ADMIN},"system:masters"',
            f'{secrets.token_urlsafe(32)},virtrigaud-controller,{CONTROLLER},"system:masters"',
        ]
        write_private(path, "\n".join(lines) + "\n")


def _token(path: Path, uid: str) -> str:
    for line in path.read_text().splitlines():
        token, _, rest = line.partition(",")
        if token and rest.split(",")[1:2] == [uid]:
            return token
    raise CommandError(f"{path} has no token for {uid}: remove the file, and all tokens are made anew")


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
