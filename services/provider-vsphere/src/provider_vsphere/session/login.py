"""One login to a vCenter or an ESXi host; these functions block.

A certificate is believed because an authority vouches for it (`ca.crt` among the credentials, else the system's), or
because its thumbprint was given; believing anything takes an explicit setting.
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common import redact
from common.errors import CredentialsRefusedError, HypervisorUnavailableError
from common.secrets import find_credential
from pyVim import connect
from pyVmomi import vim

from provider_vsphere.session.vim_errors import mapped

WAIT_SECONDS = 50
"""How long one wait for updates may last; it keeps the session alive besides (vCenter forgets one after 30 min)."""
_SECRETS = ("username", "password", "token", "ca.crt", "thumbprint")
Edition = tuple[tuple[str, int, int], ...]
"""Of credentials: names, times and inodes of their files."""
_KEPT_CONNECTIONS = 16
_TIMEOUT = WAIT_SECONDS + 30
"""Seconds without a byte after which a connection counts as dead; longer than any wait."""


@dataclass(frozen=True)
class Endpoint:
    """Where to log in and whom to believe."""

    url: str
    thumbprint: str = ""
    insecure_skip_verify: bool = False
    credentials: Path | None = None
    """Directory with `username` and `password`, or `token` (SAML, of the SSO service); `ca.crt` or
    `thumbprint` if wanted. Read anew at each login, so that rotated ones are used."""

    def secret(self, name: str) -> str | None:
        """The content of a credentials file without its line end, masked in logs from now on; None if there is none.

        Raises:
            CredentialsRefusedError: it cannot be read.
        """
        return find_credential(self.credentials, name)

    def edition(self) -> Edition:
        """Differs when somebody has changed the credentials; costs no more than a look at the directory."""
        found = []
        for path in (self.credentials / name for name in _SECRETS) if self.credentials is not None else ():
            with contextlib.suppress(OSError):  # it is not there, or is just being replaced
                told = path.stat()
                found.append((path.name, told.st_mtime_ns, told.st_ino))
        return tuple(found)

    def trust(self) -> ssl.SSLContext:
        """How the server's certificate is checked."""
        if pin := self.thumbprint or (self.secret("thumbprint") or "").strip():
            return PinnedContext(pin)
        authority = self.credentials / "ca.crt" if self.credentials is not None else None
        context = ssl.create_default_context(
            cafile=authority if authority is not None and authority.is_file() else None
        )
        if self.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class PinnedContext(ssl.SSLContext):
    """Believes the one certificate with this thumbprint, on every connection.

    pyvmomi's own `thumbprint` is compared only when the usual check fails, and switches that check off for all later
    connections; so it is not used.
    """

    _digest: str
    _algorithm: str

    def __new__(cls, thumbprint: str) -> PinnedContext:
        """Args: thumbprint: SHA-1 or SHA-256 of the certificate in hexadecimal, with or without colons."""
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context._digest = thumbprint.replace(":", "").lower()
        context._algorithm = "sha1" if len(context._digest) == 40 else "sha256"
        return context

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """Shake hands, and compare before anything is sent."""
        wrapped = super().wrap_socket(*args, **kwargs)
        found = hashlib.new(self._algorithm, wrapped.getpeercert(binary_form=True) or b"").hexdigest()
        if found != self._digest:
            wrapped.close()
            raise ssl.SSLCertVerificationError(f"its {self._algorithm} thumbprint is {found}, which was not expected")
        return wrapped


@dataclass(frozen=True)
class About:
    """What the server says of itself."""

    product: str
    """"VMware vCenter Server 8.0.3 build-24022515"."""
    is_vcenter: bool
    """Else a lone ESXi host: without clusters, distributed switches, tags and clones."""
    uuid: str = ""
    """Which vCenter it is; a lone host has none."""


@dataclass(frozen=True)
class Login:
    """A session on the server. `instance` and `content` are pyvmomi's, safe to call from several threads."""

    instance: Any
    content: Any
    about: About
    user: str = ""
    """Who we are to the server, without the domain."""

    def close(self) -> None:
        """Log out; the server does it by itself when the line is gone."""
        with contextlib.suppress(Exception):  # whatever it says, the session is not used any more
            self.content.sessionManager.Logout()
        with contextlib.suppress(Exception):
            self.instance._stub.poolSize = 0  # a call that nobody waits for closes its connection when it comes back
            self.instance._stub.DropConnections()


def plain_user(name: str) -> str:
    r"""A user's name without its domain, which is written in several ways: DOMAIN\user, user@domain."""
    return name.rpartition("\\")[2].partition("@")[0].lower()


def log_in(endpoint: Endpoint) -> Login:
    """Open a session.

    Raises:
        CredentialsRefusedError: the files are missing, or the server does not like what is in them, or the other way
            round: its certificate is not to be believed.
        HypervisorUnavailableError: no answer.
    """
    parts = urlsplit(endpoint.url)
    user, password, token = (endpoint.secret(name) for name in ("username", "password", "token"))
    if token is None and (user is None or password is None):
        raise CredentialsRefusedError(
            f"log in to {parts.hostname}: the credentials directory needs `username` and `password`, or `token`"
        )
    with mapped(f"log in to {parts.hostname}"):
        stub = _stub(endpoint)
        try:
            instance: Any = vim.ServiceInstance("ServiceInstance", stub)
            content = instance.RetrieveContent()
            if token is not None:
                stub.samlToken = token
                session = content.sessionManager.LoginByToken()
                stub.samlToken = None  # it goes with the login alone
            else:
                session = content.sessionManager.Login(user or "", password or "", None)
        except BaseException:
            stub.DropConnections()
            raise
    redact.register(session_key(instance), slot=f"session {endpoint.url}")
    told = content.about
    about = About(str(told.fullName), told.apiType == "VirtualCenter", str(told.instanceUuid or ""))
    return Login(instance, content, about, plain_user(str(session.userName or "")))


def session_key(instance: Any) -> str:
    """What lets whoever has it into our session: the value of its cookie."""
    return str(instance._stub.cookie or "").partition(";")[0].partition("=")[2].strip('"')


def _stub(endpoint: Endpoint) -> Any:
    parts = urlsplit(endpoint.url)
    encrypted = parts.scheme == "https"
    try:
        return connect.SmartStubAdapter(
            host=parts.hostname,
            port=(parts.port or 443) if encrypted else -(parts.port or 80),  # pyvmomi's sign for no TLS
            path=parts.path.rstrip("/") or "/sdk",
            poolSize=_KEPT_CONNECTIONS,
            sslContext=endpoint.trust() if encrypted else None,
            httpConnectionTimeout=_TIMEOUT,
        )
    except Exception as error:
        if type(error) is Exception:  # pyvmomi's own for "no vSphere API here", also when nobody listens
            raise HypervisorUnavailableError(f"log in to {parts.hostname}: {error}") from error
        raise


def is_unauthenticated(error: BaseException | None) -> bool:
    """Whether a fault, or what it was translated to, says that the session is gone; the call had no effect then."""
    while error is not None:
        if isinstance(error, vim.fault.NotAuthenticated):
            return True
        error = error.__cause__
    return False
