"""A private certificate authority for one installation: EC P-256, files in a directory, keys for their owner alone.

    DIR/ca.crt DIR/ca.key                      the authority
    OUT/tls.crt OUT/tls.key OUT/ca.crt         what `issue` writes, named as a Kubernetes TLS Secret names them

Certificates are renewed by issuing again: one that is still good for a third of its life is left as it is.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import ipaddress
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.clock import Clock, SystemClock
from common.tls import TlsError, TlsFiles, issued

CA_DAYS = 3650
LEAF_DAYS = 90
_BACKDATE = timedelta(minutes=5)  # clocks of two hosts differ
_LABEL = re.compile(r"[a-z0-9*_]([a-z0-9_-]{0,61}[a-z0-9])?", re.IGNORECASE)


class End(enum.Enum):
    """The ends of a connection that a certificate is good for."""

    SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)
    CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
    BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


class Authority:
    """Signs certificates for the ends of mutual TLS."""

    def __init__(self, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey, clock: Clock) -> None:
        self._cert = cert
        self._key = key
        self._clock = clock

    @classmethod
    def create(
        cls, directory: str | Path, *, name: str = "VirtRigaud", days: int = CA_DAYS, clock: Clock | None = None
    ) -> Authority:
        """Make an authority in the directory, or load the one that is there and still good for a third of its life.

        Raises:
            TlsError: the directory cannot be written, or holds a broken authority.
        """
        directory, clock = Path(directory), clock or SystemClock()
        with alone(directory):
            return cls._create(directory, name, days, clock)

    @classmethod
    def _create(cls, directory: Path, name: str, days: int, clock: Clock) -> Authority:
        if (directory / "ca.crt").exists():
            found = cls.load(directory, clock=clock)
            if not _due(found._cert, clock.now()):
                return found
            key = found._key  # under the same key and name, what the old certificate vouched for stays good
        elif (directory / "ca.key").exists():
            # An interrupted creation, or a certificate that was lost: what the key has signed stays good as well.
            key = _load_key(directory / "ca.key")
        else:
            key = ec.generate_private_key(ec.SECP256R1())
            _write(directory / "ca.key", _pem_key(key), 0o600)
        cert = self_signed(f"{name} CA", key, clock.now(), days)
        _write(directory / "ca.crt", cert.public_bytes(serialization.Encoding.PEM), 0o644)
        return cls(cert, key, clock)

    @classmethod
    def load(cls, directory: str | Path, *, clock: Clock | None = None) -> Authority:
        """Load an authority.

        Raises:
            TlsError: a file is missing, unreadable or broken, or they do not belong together.
        """
        directory = Path(directory)
        cert_path, key_path = directory / "ca.crt", directory / "ca.key"
        try:
            cert = x509.load_pem_x509_certificate(cert_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        except OSError as error:
            raise TlsError(f"authority file {error.filename} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError):
            raise TlsError(
                f"authority files {cert_path} and {key_path} are broken: restore both, or remove both"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TlsError(
                f"authority key {key_path} is of a kind that is not signed with here: make an EC key, as P-256"
            )
        if key.public_key() != cert.public_key():
            raise TlsError(f"authority key {key_path} does not belong to {cert_path}: restore both, or remove both")
        if not _may_sign(cert):
            raise TlsError(f"{cert_path} is no authority: its basic constraints do not say CA:TRUE; make it with isCA")
        return cls(cert, key, clock or SystemClock())

    @property
    def expires(self) -> datetime:
        """When the authority itself expires."""
        return self._cert.not_valid_after_utc

    @property
    def certificate(self) -> x509.Certificate:
        """Its own."""
        return self._cert

    def certificate_pem(self) -> bytes:
        """The authority's certificate, for whoever must trust it."""
        return pem(self._cert)

    def signed(self, certificate: Path) -> bool:
        """Whether it is of this authority. Raises: OSError, ValueError: the file cannot be read, or holds none."""
        cert = x509.load_pem_x509_certificate(certificate.read_bytes())
        try:
            cert.verify_directly_issued_by(self._cert)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    def issue(
        self,
        directory: str | Path,
        name: str,
        sans: Sequence[str] = (),
        days: float = LEAF_DAYS,
        *,
        end: End = End.BOTH,
        group: int | None = None,
        trust: Sequence[x509.Certificate] | None = None,
    ) -> TlsFiles:
        """Write a certificate, its key and the authority into the directory.

        What is there stays when it is of this authority, for the same names and ends, and good for a third of its
        life: callers may issue at every start.

        Args:
            name: who the certificate is for; the first of its names.
            sans: further names: DNS names, IP addresses or URIs.
            group: id of a group that may read the files, too; None: their owner alone reads the key.
            trust: authorities that are trusted beside this one, as one takes the place of another; None: those that
                somebody has listed beside it in the file.
        Raises:
            TlsError: the directory cannot be written.
            ValueError: a name that is none of the three.
        """
        names = [_general_name(each) for each in dict.fromkeys((name, *sans))]
        with alone(Path(directory)):
            return self._issue(Path(directory), name, names, days, end, group, trust)

    def _issue(
        self, directory: Path, name: str, names: list[x509.GeneralName], days: float, end: End, group: int | None,
        trust: Sequence[x509.Certificate] | None,
    ) -> TlsFiles:  # fmt: skip
        files = TlsFiles(directory / "tls.crt", directory / "tls.key", directory / "ca.crt")
        bundle = pem(self._cert, *trust) if trust is not None else self._listed(files.ca)
        if self._good(files, names, end):
            if files.ca.read_bytes() != bundle:
                _write(files.ca, bundle, 0o644)
            _share(files, group)
            return files
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
        cert = (
            _builder(subject, self._cert.subject, key.public_key(), self._clock.now(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(end.value), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(_identifier_of(self._cert), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        # The key last but one and the certificate last: a reader that comes between refuses the pair and looks again.
        _write(files.ca, bundle, 0o644)
        _write(files.key, _pem_key(key), _key_mode(group), group)
        _write(files.cert, cert.public_bytes(serialization.Encoding.PEM), 0o644)
        _share(files, group)
        return files

    def _listed(self, path: Path) -> bytes:
        """What the file holds, if this authority is among it; else this one alone."""
        try:
            data = path.read_bytes()
            held = x509.load_pem_x509_certificates(data)
        except (OSError, ValueError):  # not there yet, or of no use
            data, held = b"", []
        return data if self._cert in held else pem(self._cert)

    def _good(self, files: TlsFiles, names: list[x509.GeneralName], end: End) -> bool:
        try:
            files.check(self._clock)
            cert = x509.load_pem_x509_certificate(files.cert.read_bytes())
            held = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            ends = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except (TlsError, OSError, ValueError, x509.ExtensionNotFound):
            return False
        same = issued(cert, self._cert) and set(held) == set(names) and set(ends) == set(end.value)
        return same and not _due(cert, self._clock.now())


def self_signed(name: str, key: ec.EllipticCurvePrivateKey, now: datetime, days: float) -> x509.Certificate:
    """The certificate of an authority of this name with this key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        _builder(subject, subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as they stand in a file."""
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def trust(files: TlsFiles, authorities: Sequence[x509.Certificate]) -> None:
    """Have the holder of the files trust these, and nothing else changed. Raises: TlsError: it cannot be written."""
    if files.ca.read_bytes() != pem(*authorities):
        _write(files.ca, pem(*authorities), 0o644)


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep others who would make keys in this directory out meanwhile; it is made if it is not there.

    Raises:
        TlsError: it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(directory, error) from error
        with contextlib.suppress(OSError):  # not to be read, or of a file system that locks no directories
            held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, held)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise TlsError(f"authority file {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TlsError(f"authority key {path} is broken, and its ca.crt is not there: restore both, or remove it")
    return key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _identifier_of(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """As the authority calls itself: tools digest keys in different ways, and verifiers compare what is written."""
    try:
        held = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())  # type: ignore[arg-type]  # of an EC key, as `load` sees to
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(held)


def _may_sign(cert: x509.Certificate) -> bool:
    try:
        return cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _due(cert: x509.Certificate, now: datetime) -> bool:
    life = cert.not_valid_after_utc - cert.not_valid_before_utc
    return cert.not_valid_after_utc - now < life / 3


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass  # no address; that is what was asked
    if "://" in name and name.isascii():
        return x509.UniformResourceIdentifier(name)
    if name and len(name) <= 253 and all(_LABEL.fullmatch(label) for label in name.split(".")):
        return x509.DNSName(name)
    raise ValueError(f"{name!r} is no DNS name, IP address or URI: a certificate cannot be for it")


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _key_mode(group: int | None) -> int:
    return 0o600 if group is None else 0o640


def _share(files: TlsFiles, group: int | None) -> None:
    """Let the group in, or keep it out, of what may be there from another time.

    Raises:
        TlsError: the group cannot be given.
    """
    try:
        if group is not None:
            os.chown(files.cert.parent, -1, group)
            files.cert.parent.chmod(0o750)
            os.chown(files.key, -1, group)
        files.key.chmod(_key_mode(group))
    except OSError as error:
        raise TlsError(f"{error.filename} cannot be given to group {group}: {error.strerror}") from error


def _write(path: Path, data: bytes, mode: int, group: int | None = None) -> None:
    """Replace the file whole, with this mode and group from the first moment on, durably."""
    temporary = ""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        with os.fdopen(handle, "wb") as file:
            if group is not None:
                os.fchown(file.fileno(), -1, group)
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)  # it holds a key
        if isinstance(error, OSError):
            raise _unwritable(path, error) from error
        raise


def _unwritable(path: Path, error: OSError) -> TlsError:
    return TlsError(f"{path} cannot be written: {error.strerror}; check the directory's owner and mode")
