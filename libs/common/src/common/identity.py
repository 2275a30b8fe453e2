"""Who a certificate is for: one URI per role, as SPIFFE writes them, and for servers a DNS name that says the same.

    spiffe://virtrigaud.io/ns/NAMESPACE/controller          the controller; NAMESPACE is its own
    spiffe://virtrigaud.io/ns/NAMESPACE/operator            people who use vrtg
    spiffe://virtrigaud.io/ns/NAMESPACE/viewer              whoever may look, and no more
    spiffe://virtrigaud.io/ns/NAMESPACE/provider/NAME       the server of that Provider object
    NAME.NAMESPACE.provider.virtrigaud.io                   the same server, for gRPC, which checks DNS names alone

An address is no identity: it is what the network says, and another server may answer there.
"""

from __future__ import annotations

import enum
import hashlib
import re
from dataclasses import dataclass

TRUST_DOMAIN = "virtrigaud.io"
SYSTEM_NAMESPACE = "virtrigaud-system"
"""Namespace of the installation where nobody names another one: outside of a cluster there is none to ask."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_MOST_DNS, _MOST_LABEL = 253, 63


class Role(enum.Enum):
    """What a client is."""

    CONTROLLER = "controller"
    OPERATOR = "operator"
    VIEWER = "viewer"


def client(role: Role, namespace: str = SYSTEM_NAMESPACE) -> str:
    """The URI of a client. Raises: ValueError: no name of a namespace."""
    return f"spiffe://{TRUST_DOMAIN}/ns/{_label(namespace)}/{role.value}"


@dataclass(frozen=True, slots=True)
class Server:
    """The server of the Provider with this name.

    Raises:
        ValueError: no names of Kubernetes objects.
    """

    namespace: str
    name: str

    def __post_init__(self) -> None:
        _label(self.namespace)
        if len(self.name) > _MOST_DNS or not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a Provider: lower-case letters, digits, - and . make one")

    @property
    def uri(self) -> str:
        """Who it is."""
        return f"spiffe://{TRUST_DOMAIN}/ns/{self.namespace}/provider/{self.name}"

    @property
    def host(self) -> str:
        """The DNS name that stands for `uri`, and for no other."""
        host = f"{self.name}.{self.namespace}.provider.{TRUST_DOMAIN}"
        if len(host) <= _MOST_DNS and all(len(label) <= _MOST_LABEL for label in host.split(".")):
            return host
        # One label before "provider", where others have two or more: no Provider's own name can be it.
        return f"{hashlib.sha256(self.uri.encode()).hexdigest()[:_MOST_LABEL]}.provider.{TRUST_DOMAIN}"


def role_of(uri: str) -> Role | None:
    """What a client with this URI is; None: it is none of ours."""
    found = re.fullmatch(rf"spiffe://{re.escape(TRUST_DOMAIN)}/ns/([^/]+)/([a-z]+)", uri)
    if found is None or not _NAME.fullmatch(found[1]):
        return None
    return next((role for role in Role if role.value == found[2]), None)


def _label(namespace: str) -> str:
    if len(namespace) > _MOST_LABEL or "." in namespace or not _NAME.fullmatch(namespace):
        raise ValueError(f"{namespace!r} is no name of a namespace: lower-case letters, digits and - make one")
    return namespace
