"""What `vrtg certs` makes: who gets a certificate, for which names, and where its files are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import identity, pki, tls
from common.identity import Role

from vrtg.failures import CommandError, UsageError

DAYS, CA_DAYS = 90, pki.CA_DAYS
SYSTEM = identity.SYSTEM_NAMESPACE
LOCAL = ("localhost", "127.0.0.1")
"""Hosts that each server's certificate is for as well: a health check or a tunnel dials these."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Wanted:
    """One certificate."""

    directory: str
    name: str
    sans: tuple[str, ...]
    end: pki.End


def wanted(
    *,
    controller: bool,
    providers: Sequence[str],
    viewers: Sequence[str],
    operators: Sequence[str],
    servers: Sequence[str],
    hosts: Sequence[str],
    namespace: str,
    system_namespace: str,
) -> list[Wanted]:
    """The certificates that a command line asks for.

    Raises:
        UsageError: a name that no certificate can be for.
    """
    try:
        found = [_client("controller", Role.CONTROLLER, system_namespace)] if controller else []
        found += [_provider(name, namespace, hosts) for name in providers]
        found += [_client(f"viewer-{_plain(name)}", Role.VIEWER, system_namespace) for name in viewers]
        found += [_client(f"operator-{_plain(name)}", Role.OPERATOR, system_namespace) for name in operators]
        found += [
            Wanted(f"server-{_plain(name)}", name, tuple(dict.fromkeys((*hosts, *LOCAL))), pki.End.SERVER)
            for name in servers
        ]
    except ValueError as error:
        raise UsageError(str(error)) from error
    return found


def make(into: Path, wish: Sequence[Wanted], group: int | None, days: int) -> Iterator[str]:
    """Make and renew; tells what it did, file by file.

    Raises:
        CommandError: the directory cannot be written, or holds a broken authority.
        UsageError: a host that no certificate can be for.
    """
    try:
        into.mkdir(mode=0o755, parents=True, exist_ok=True)
        before = _content(into / "ca" / "ca.crt")
        authority = pki.Authority.create(into / "ca")
        yield _told("ca/ca.crt", before, authority.certificate_pem(), f"good until {authority.expires:%Y-%m-%d}")
        if strangers := _of_others(into, authority):
            yield f"of another authority, and refused from now on unless they are made anew: {', '.join(strangers)}"
        for each in wish:
            cert = into / each.directory / "tls.crt"
            before = _content(cert)
            files = authority.issue(into / each.directory, each.name, each.sans, days, end=each.end, group=group)
            names = ", ".join((each.name, *each.sans))
            good = f"good until {files.check():%Y-%m-%d}, for {names}"
            yield _told(f"{each.directory}/tls.crt", before, _content(cert), good)
    except tls.TlsError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename or into} cannot be used: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def _of_others(into: Path, authority: pki.Authority) -> list[str]:
    """Certificates here that an authority which is not there any more has signed: who trusts this one refuses them."""
    found = []
    for path in sorted(into.glob("*/tls.crt")):
        try:
            if not authority.signed(path):
                found.append(path.parent.name)
        except ValueError:
            continue  # no certificate: whoever reads it says so
    return found


def _provider(name: str, namespace: str, hosts: Sequence[str]) -> Wanted:
    server = identity.Server(namespace, name)
    return Wanted(f"provider-{name}", server.host, tuple(dict.fromkeys((server.uri, *hosts, *LOCAL))), pki.End.SERVER)


def _client(directory: str, role: Role, namespace: str) -> Wanted:
    # No DNS name beside the URI: whoever held one could pass for the host of that name.
    return Wanted(directory, identity.client(role, namespace), (), pki.End.CLIENT)


def _plain(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a certificate: lower-case letters, digits, - and . make one")
    return name


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _told(file: str, before: bytes, after: bytes, good: str) -> str:
    verb = "made" if not before else ("kept" if before == after else "renewed")
    return f"{verb} {file}: {good}"
