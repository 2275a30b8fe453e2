"""Who we are to Proxmox VE, and whom we believe.

A certificate is believed because an authority vouches for it (`ca.crt` among the credentials, else the system's), or
because its fingerprint was given; believing anything takes an explicit setting. An API token goes with each request
and never ends. A ticket (of a password) holds for two hours, is valid on every node of the cluster, and is made anew in
good time, by one call at a time: proxmoxer would do it inside of any request, in several threads at once.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import redact
from common.errors import CredentialsRefusedError
from common.secrets import find_credential

from provider_proxmox.session.rows import GarbledError, mapping, text

RENEW_SECONDS = 3600.0
"""A ticket of this age is made anew; it holds for two hours. Source: PVE::AccessControl."""


@dataclass(frozen=True)
class Credentials:
    """What is in the files: a token, or a user and a password."""

    token_id: str = ""
    """"user@realm!name"."""
    token_secret: str = field(default="", repr=False)
    username: str = ""
    password: str = field(default="", repr=False)

    @property
    def is_token(self) -> bool:
        """A token needs no login."""
        return bool(self.token_id)


@dataclass(frozen=True)
class Login:
    """What goes with a request."""

    credentials: Credentials
    headers: dict[str, str] = field(repr=False)
    """Of every request."""
    csrf: str = field(default="", repr=False)
    """Besides, of those that change something."""
    renew_at: float = float("inf")
    """By the monotonic clock."""

    def headers_for(self, method: str) -> dict[str, str]:
        """Headers of a request with this method."""
        return self.headers if method == "GET" or not self.csrf else {**self.headers, "CSRFPreventionToken": self.csrf}


@dataclass(frozen=True)
class Endpoint:
    """Where the API is, and whom to believe there."""

    urls: tuple[str, ...]
    fingerprints: tuple[str, ...] = ()
    insecure_skip_verify: bool = False
    credentials: Path | None = None
    """Directory with `token_id` and `token_secret`, or `username` and `password`; `ca.crt` or `fingerprint` if wanted.
    Read anew at each login and after each refusal, so that rotated ones are used."""

    def secret(self, name: str) -> str:
        """The content of a credentials file without its line end, masked in logs from now on; empty if there is none.

        Raises:
            CredentialsRefusedError: it cannot be read.
        """
        return (find_credential(self.credentials, name) or "").strip("\r\n \t")

    def read(self) -> Credentials:
        """What the files say now.

        Raises:
            CredentialsRefusedError: neither a token nor a user with a password.
        """
        token = Credentials(token_id=self.secret("token_id"), token_secret=self.secret("token_secret"))
        if token.token_id and token.token_secret:
            if "!" not in token.token_id:
                raise CredentialsRefusedError("credentials: `token_id` is not of the form user@realm!name")
            return token
        person = Credentials(username=self.secret("username"), password=self.secret("password"))
        if person.username and person.password:
            if "@" not in person.username:
                raise CredentialsRefusedError("credentials: `username` names no realm; give user@pam or user@pve")
            return person
        raise CredentialsRefusedError(
            "credentials: the directory needs `token_id` and `token_secret`, or `username` and `password`"
        )

    def trust(self) -> ssl.SSLContext:
        """How the certificate of a node is checked."""
        pins = [*self.fingerprints, *self.secret("fingerprint").split()]
        if pins:
            return PinnedContext(pins)
        authority = self.credentials / "ca.crt" if self.credentials is not None else None
        context = ssl.create_default_context(
            cafile=authority if authority is not None and authority.is_file() else None
        )
        if self.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class PinnedContext(ssl.SSLContext):
    """Believes the certificates with these SHA-256 fingerprints, and no other, on every connection."""

    pins: frozenset[str]
    """Lower-case hexadecimal."""

    def __new__(cls, fingerprints: Sequence[str]) -> PinnedContext:
        """Args: fingerprints: hexadecimal, with or without colons; one per node."""
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.pins = frozenset(each.replace(":", "").lower() for each in fingerprints)
        return context

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """Shake hands, and compare before anything is sent."""
        wrapped = super().wrap_socket(*args, **kwargs)
        found = hashlib.sha256(wrapped.getpeercert(binary_form=True) or b"").hexdigest()
        if found not in self.pins:
            wrapped.close()
            raise ssl.SSLCertVerificationError(f"its SHA-256 fingerprint is {found}, which was not expected")
        return wrapped


def token_login(credentials: Credentials) -> Login:
    """What goes with each request of a token."""
    secret = f"PVEAPIToken={credentials.token_id}={credentials.token_secret}"
    return Login(credentials, {"Authorization": secret})


def ticket_login(credentials: Credentials, said: object, now: float) -> Login:
    """What goes with each request of a ticket.

    Args:
        said: the answer of `POST access/ticket`.
    Raises:
        CredentialsRefusedError: it takes a second factor, which nobody is there to give.
        GarbledError: there is no ticket in it.
    """
    answer = mapping(said, f"log in as {credentials.username}")
    if answer.get("NeedTFA"):
        raise CredentialsRefusedError(
            f"log in as {credentials.username}: the user has a second factor; use an API token instead"
        )
    ticket, csrf = (text(answer.get(key)) for key in ("ticket", "CSRFPreventionToken"))
    if not ticket or not csrf:
        raise GarbledError(f"log in as {credentials.username}: the answer has no ticket")
    redact.register(ticket, slot=f"ticket {credentials.username}")
    redact.register(csrf, slot=f"csrf {credentials.username}")
    return Login(
        credentials,
        {"Cookie": f"PVEAuthCookie={ticket}"},
        csrf=csrf,
        renew_at=now + RENEW_SECONDS,
    )
