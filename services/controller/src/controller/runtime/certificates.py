"""Certificates of the servers that the controller makes, and of the controller towards each of them.

One authority takes the place of another while both sides work, for each Provider by itself:

1. The controller trusts both towards this server, with the certificate that it has. The server's Secret gets a
   certificate of the new authority, and lists both.
2. The server shows that certificate, so it has read the Secret: now it knows who is of the new authority. The
   controller takes a certificate of it.
3. A look later neither lists the old one any more, and whoever is of it is not served.

Nothing is remembered but in the files and the Secret, so any controller goes on from where another left off.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import identity, logging, metrics
from common.clock import Clock
from common.identity import Server
from common.pki import Authority, End, trust
from common.rpc.inspection import Seen, examine
from common.tls import TlsError, TlsFiles, issued, key_id
from cryptography import x509
from kinds.provider import Provider

from controller.files import private_directory, remove_tree, write_private
from controller.runtime.manifests import host_of, port_of

log = logging.get(__name__)

DAYS = 90
FILES = ("tls.crt", "tls.key", "ca.crt")

Examine = Callable[[str, TlsFiles, Server], Awaitable[Seen]]
"""Sees who answers at "host:port"."""


@dataclass(frozen=True, slots=True)
class Made:
    """What both sides of a connection are to have."""

    client: TlsFiles
    secret: Mapping[str, bytes]
    """Data of the server's Secret."""


class Certificates:
    """Of all Providers whose servers are made here."""

    def __init__(self, directory: Path, clients: Path, namespace: str, clock: Clock, see: Examine = examine) -> None:
        """Args:
        directory: private, for servers' certificates on their way into Secrets.
        clients: for the controller's own, one directory per Provider.
        namespace: the controller's, which its certificate names.
        """
        self._directory, self._clients, self._clock, self._see = directory, clients, clock, see
        self._name = identity.client(identity.Role.CONTROLLER, namespace)

    async def make(self, provider: Provider, authority: Authority, held: Mapping[str, bytes]) -> Made:
        """Bring both sides one step further.

        Args:
            held: data of the server's Secret as it is.
        Raises:
            TlsError: a file cannot be written.
        """
        server = Server(provider.metadata.namespace, provider.metadata.name)
        client = _files(self._clients / provider.metadata.uid)
        former = self._former(authority, held)
        stays, ours = False, _is_of(authority, _read(client.cert))
        if former and await self._has_arrived(provider, server, authority, held, client):
            if ours:
                log.info("authority.replaced", provider=f"{server.namespace}/{server.name}")
                former = []
        elif former and not ours:
            stays = _usable(client, self._clock)
        if stays:
            trust(client, [authority.certificate, *former])
        else:
            client = authority.issue(client.cert.parent, self._name, days=DAYS, end=End.CLIENT, trust=former)
        return Made(client, self._server(provider, server, authority, held, former))

    def client(self, provider: Provider) -> TlsFiles | None:
        """What was made for the controller before, while it is good."""
        files = _files(self._clients / provider.metadata.uid)
        return files if _usable(files, self._clock) else None

    def forget(self, uid: str) -> None:
        """The Provider goes, or has another mode now."""
        remove_tree(self._clients / uid)
        metrics.certificate_gone(str(_files(self._clients / uid).cert))

    def _former(self, authority: Authority, held: Mapping[str, bytes]) -> list[x509.Certificate]:
        """Authorities that the server lists beside today's, and that vouch for something that today's does not."""
        now, today = self._clock.now(), authority.certificate
        return [
            each
            for each in _certificates(held.get("ca.crt", b""))
            if each.not_valid_after_utc > now and not _stands_for(today, each)
        ]

    async def _has_arrived(
        self, provider: Provider, server: Server, authority: Authority, held: Mapping[str, bytes], client: TlsFiles
    ) -> bool:
        """Whether the server has read a Secret with a certificate of today's authority: it shows one."""
        if not _is_of(authority, held.get("tls.crt", b"")) or not client.cert.exists():
            return False
        seen = await self._see(f"{host_of(provider)}:{port_of(provider)}", client, server)
        return seen.certificate is not None and issued(seen.certificate, authority.certificate)

    def _server(
        self,
        provider: Provider,
        server: Server,
        authority: Authority,
        held: Mapping[str, bytes],
        former: Sequence[x509.Certificate],
    ) -> dict[str, bytes]:
        """What is held where it is good for long yet; else a new certificate."""
        place = private_directory(self._directory) / provider.metadata.uid
        remove_tree(place)
        private_directory(place)
        for name in FILES:
            if name in held:
                write_private(place / name, held[name])
        host = host_of(provider)
        names = [server.uri, host, f"{host}.cluster.local"]
        files = authority.issue(place, server.host, names, DAYS, end=End.SERVER, trust=former)
        fresh = {path.name: path.read_bytes() for path in (files.cert, files.key, files.ca)}
        remove_tree(place)
        return fresh


def encoded(data: Mapping[str, bytes]) -> dict[str, str]:
    """As the data of a Secret is written."""
    return {name: base64.b64encode(value).decode() for name, value in data.items()}


def _files(place: Path) -> TlsFiles:
    return TlsFiles(*(place / name for name in FILES))


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _usable(files: TlsFiles, clock: Clock) -> bool:
    try:
        files.check(clock)
    except TlsError:
        return False
    return True


def _is_of(authority: Authority, data: bytes) -> bool:
    found = _certificates(data)
    return bool(found) and issued(found[0], authority.certificate)


def _stands_for(today: x509.Certificate, other: x509.Certificate) -> bool:
    """Whether all that the other authority has issued is of today's, too: it is the same one, renewed under its key."""
    same = (today.subject, key_id(today)) == (other.subject, key_id(other))
    return same and today.public_key() == other.public_key()


def _certificates(data: bytes) -> list[x509.Certificate]:
    """Of a file; none of one that holds none."""
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        return []
