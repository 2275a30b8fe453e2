"""Mutual TLS from three files, checked when they are loaded and taken up again when they change.

TLS 1.3 alone: gRPC's Python API cannot say so, so the one cipher suite that is left to 1.2 is one that can never be
agreed on (docs/adr/0022).
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from common import TLS_1_3_ALONE, identity, logging, metrics, secrets
from common.clock import Clock, SystemClock

log = logging.get(__name__)

CONTROLLER, OPERATOR, VIEWER = (identity.client(role) for role in identity.Role)
"""Clients of an installation that names no namespace."""


class TlsError(Exception):
    """Certificate files that cannot work; the message names the file, what is wrong, and the cure."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: own certificate (with its chain), own private key, and the authorities that the peer must be from."""

    cert: Path
    key: Path
    ca: Path

    def __post_init__(self) -> None:
        for name in ("cert", "key", "ca"):  # callers have strings from settings, too
            object.__setattr__(self, name, Path(getattr(self, name)))

    def check(self, clock: Clock | None = None) -> datetime:
        """Whether a handshake with these files can succeed; answers with the time of expiry.

        Raises:
            TlsError: unreadable, not PEM, expired, not yet valid, key of another certificate, another authority's.
        """
        return _checked(self, self.read(), (clock or SystemClock()).now())

    def read(self) -> Material:
        """The files' content.

        Raises:
            TlsError: unreadable.
        """
        return Material(*(_bytes(path) for path in (self.cert, self.key, self.ca)))

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Changes when a file does; a missing file has a stamp of its own."""
        return tuple(_stamp(path) for path in (self.cert, self.key, self.ca))


@dataclass(frozen=True, slots=True, repr=False)
class Material:
    """What the files hold; never shown."""

    cert: bytes
    key: bytes
    ca: bytes


class Watched:
    """Files whose last usable content is at hand; a change that cannot be used is logged once and not taken up."""

    def __init__(self, files: TlsFiles, clock: Clock | None = None) -> None:
        """Raises TlsError when the files cannot be used now."""
        self.files = files
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()  # gRPC's handshakes ask from a thread of its own
        self._stamp = self._refused = files.stamp()
        self._material = files.read()
        self.expires = _checked(files, self._material, self._clock.now())
        if secrets.readable_by_others(files.key):
            log.warning("tls.key.exposed", key_file=str(files.key), cure=f"chmod 600 {files.key}")
        metrics.certificate(str(files.cert), functools.partial(_expiry, files.cert))

    @property
    def material(self) -> Material:
        return self._material

    def refresh(self) -> bool:
        """Read the files again if they changed; whether there is new material."""
        with self._lock:
            stamp = self.files.stamp()
            if stamp == self._stamp:
                return False
            try:
                material = self.files.read()
                expires = _checked(self.files, material, self._clock.now())
            except TlsError as error:
                if stamp != self._refused:
                    log.warning("tls.reload.refused", cert=str(self.files.cert), problem=str(error))
                self._refused = stamp
                return False  # they are looked at again: by a clock that is behind, they are only not yet valid
            self._stamp = stamp
            if material == self._material:
                return False
            self._material, self.expires = material, expires
            log.info("tls.reloaded", cert=str(self.files.cert), expires=expires.isoformat())
            return True


class Callers:
    """Whether a client's certificate holds now, whatever it did when its connection was made."""

    def __init__(self, watched: Watched, clock: Clock) -> None:
        self.clock = clock
        self._watched = watched
        self._judged: dict[tuple[bytes, ...], datetime | None] = {}
        """Until when a certificate with its chain holds, by the authorities in `_of`; None: by none of them."""
        self._of = b""

    def refresh(self) -> None:
        """Look at the files."""
        self._watched.refresh()

    def problem(self, auth_context: dict[str, Sequence[bytes]]) -> str:
        """Why the peer of a call is not who it was any more, and what to do; empty while it is."""
        ca, now = self._watched.material.ca, self.clock.now()
        if ca != self._of or len(self._judged) >= _MOST_JUDGED:
            self._judged, self._of = {}, ca
        key = tuple(data for name in _PEER for data in auth_context.get(name, ()))
        if key not in self._judged:
            self._judged[key] = _holds_until(key, _certificates(self._watched.files.ca, ca))
        until = self._judged[key]
        if until is None:
            return "is of an authority that this server does not trust any more: use one of an authority that it trusts"
        if until < now:
            return f"expired, or its authority did, at {until:%Y-%m-%d %H:%M:%S} UTC: use a new one"
        return ""


_PEER = ("x509_pem_cert", "x509_pem_cert_chain")
_MOST_JUDGED = 1000


def _holds_until(shown: Sequence[bytes], authorities: Sequence[x509.Certificate]) -> datetime | None:
    """Until when what a peer has shown holds: its certificate, whatever stands between, and the authority."""
    if not shown:
        return None
    leaf, *others = (cert for data in shown for cert in x509.load_pem_x509_certificates(data))
    until, rest = leaf.not_valid_after_utc, [cert for cert in others if cert != leaf]
    while True:
        ends = [each.not_valid_after_utc for each in authorities if each == leaf or issued(leaf, each)]
        if ends:
            return min(until, max(ends))
        above = next((cert for cert in rest if issued(leaf, cert)), None)
        if above is None:
            return None
        rest.remove(above)
        leaf, until = above, min(until, above.not_valid_after_utc)


@dataclass(frozen=True, slots=True)
class ServerCredentials:
    """What a server is given: gRPC's own, and what it asks of each call."""

    grpc: grpc.ServerCredentials
    callers: Callers


def server_credentials(files: TlsFiles, clock: Clock | None = None) -> ServerCredentials:
    """Serve with these files, demand a certificate of each client, and take up changed files at the next handshake.

    Raises:
        TlsError: the files cannot be used now.
    """
    _forbid_tls_1_2()
    watched = Watched(files, clock)
    given = watched.material

    def configuration(material: Material) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(material.key, material.cert)], root_certificates=material.ca)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        watched.refresh()
        if watched.material is given:  # whoever else has looked meanwhile: gRPC knows of what it was given
            return None
        given = watched.material
        return configuration(given)

    made = grpc.dynamic_ssl_server_credentials(configuration(given), fetch, require_client_authentication=True)
    return ServerCredentials(made, Callers(watched, clock or SystemClock()))


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    """Credentials of a client."""
    _forbid_tls_1_2()
    return grpc.ssl_channel_credentials(material.ca, material.key, material.cert)


def _forbid_tls_1_2() -> None:
    """Raises TlsError where gRPC was imported before it could be told."""
    if not TLS_1_3_ALONE:
        raise TlsError("this process would speak TLS 1.2: import common before grpc")


def peer_names(auth_context: dict[str, Sequence[bytes]]) -> frozenset[str]:
    """The alternative names (DNS, URI, IP) of the peer's verified certificate; its common name does not count."""
    return frozenset(name.decode("utf-8", "replace") for name in auth_context.get("x509_subject_alternative_name", ()))


# -- checking ------------------------------------------------------------------------------------------------------


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"TLS file {path} cannot be read: {error.strerror}; check its path and mode") from error


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _expiry(path: Path) -> float:
    """Unix time at which the first certificate of a chain expires; 0 for a file that holds none."""
    try:
        return min(cert.not_valid_after_utc for cert in _certificates(path, _bytes(path))).timestamp()
    except TlsError:
        return 0.0


def _checked(files: TlsFiles, material: Material, now: datetime) -> datetime:
    chain = _certificates(files.cert, material.cert)
    authorities = _certificates(files.ca, material.ca)
    for cert, path in [*((each, files.cert) for each in chain), *((each, files.ca) for each in authorities)]:
        if path == files.ca and len(authorities) > 1:
            continue  # a bundle keeps an old authority beside the new one while it is replaced
        _check_dates(cert, path, now)
    _check_key(files, material.key, chain[0])
    if not _leads_to(chain, authorities):
        issuer = chain[-1].issuer.rfc4514_string()
        raise TlsError(
            f"certificate {files.cert} was issued by {issuer}, which is not in {files.ca}: "
            "use the certificate of this authority, or append its issuer to the file"
        )
    return min(cert.not_valid_after_utc for cert in chain)


def _certificates(path: Path, data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise TlsError(f"TLS file {path} holds no PEM certificate: put the certificate there, as text") from error


def _check_dates(cert: x509.Certificate, path: Path, now: datetime) -> None:
    if now > cert.not_valid_after_utc:
        raise TlsError(f"certificate {path} expired at {cert.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: issue a new one")
    if now < cert.not_valid_before_utc:
        raise TlsError(
            f"certificate {path} is not valid before {cert.not_valid_before_utc:%Y-%m-%d %H:%M} UTC and it is "
            f"{now:%Y-%m-%d %H:%M} UTC here: set the clock, or wait"
        )


def _check_key(files: TlsFiles, data: bytes, cert: x509.Certificate) -> None:
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without `from`: whatever the parser says of a key stays out of logs.
        raise TlsError(
            f"TLS file {files.key} holds no private key that can be used: give an unencrypted PEM key"
        ) from None
    mine = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        theirs = cert.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TlsError(
            f"certificate {files.cert} is for a key of a kind that cannot be used: issue one for an EC or RSA key"
        ) from error
    if mine != theirs:
        raise TlsError(
            f"private key {files.key} does not belong to certificate {files.cert}: use a pair that was issued together"
        )


def _leads_to(chain: list[x509.Certificate], authorities: Iterable[x509.Certificate]) -> bool:
    for cert, issuer in itertools.pairwise(chain):
        if not issued(cert, issuer):
            return False
    return any(chain[-1] == authority or issued(chain[-1], authority) for authority in authorities)


def issued(cert: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether a handshake takes one for issued by the other."""
    try:
        cert.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    named, own = _names_issuer(cert), key_id(issuer)
    return not named or not own or named == own


def key_id(cert: x509.Certificate) -> bytes | None:
    """What it calls its own key, for those that it issues."""
    try:
        return cert.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.key_identifier
    except (x509.ExtensionNotFound, ValueError):
        return None


def _names_issuer(cert: x509.Certificate) -> bytes | None:
    try:
        return cert.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (x509.ExtensionNotFound, ValueError):
        return None
