"""Who answers at an address: a handshake of our own, since gRPC tells neither whom it met nor why it turned away.

It decides nothing that a call rests on alone: the handshake of each call's own connection checks the server's DNS name.
What it adds is the URI beside that name, and words: which name was expected, and which was shown.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

from cryptography import x509

from common.errors import ClientRefusedError, ProviderError, WrongServerError
from common.identity import Server
from common.tls import TlsFiles

SECONDS = 5.0
"""How long an answer is waited for."""
_SHOWN = 10
"""Names of a certificate that are told."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Who answers there."""

    problem: ProviderError | None = None
    """What is wrong with him; None: he is the server that is meant, or nobody answers."""
    certificate: x509.Certificate | None = None
    """Of the server that is meant."""


async def examine(target: str, tls: TlsFiles, server: Server) -> Seen:
    """See who answers at "host:port" or "unix:/path". Never raises for what it meets there."""
    try:
        context = _context(tls)
    except (ssl.SSLError, OSError):
        return Seen()  # files in the middle of a change; the channel has those of before
    try:
        async with asyncio.timeout(SECONDS):
            return await _meet(target, context, server)
    except (TimeoutError, OSError, ValueError) as error:
        return Seen(_refusal(target, server, error))


def _refusal(target: str, server: Server, error: Exception) -> ProviderError | None:
    """What a handshake that ended badly says of whoever answered; None: nothing."""
    expected = f"{target}, where {server.uri} was expected"
    if isinstance(error, ssl.SSLCertVerificationError):
        return WrongServerError(f"{expected}: its certificate is refused: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        return WrongServerError(f"{expected}: no TLS 1.3 with it: {_words(error)}")
    if isinstance(error, ConnectionResetError):
        return WrongServerError(f"{expected}: it hung up, no TLS 1.3 with it")
    return None


def _context(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the names are looked at below
    context.load_verify_locations(tls.ca)
    context.load_cert_chain(tls.cert, tls.key)
    context.set_alpn_protocols(["h2"])
    return context


async def _meet(target: str, context: ssl.SSLContext, server: Server) -> Seen:
    if target.startswith("unix:"):
        opening = asyncio.open_unix_connection(target.removeprefix("unix:"), ssl=context, server_hostname=server.host)
    else:
        host, _, port = target.rpartition("/")[2].rpartition(":")
        opening = asyncio.open_connection(host.strip("[]"), int(port), ssl=context, server_hostname=server.host)
    reader, writer = await opening
    try:
        session = writer.get_extra_info("ssl_object")
        certificate = session.getpeercert() or {}
        shown = [f"{kind}:{name}" for kind, name in certificate.get("subjectAltName", ())]
        if f"URI:{server.uri}" not in shown or f"DNS:{server.host}" not in shown:
            return Seen(_other(target, server, shown))
        held = x509.load_der_x509_certificate(session.getpeercert(binary_form=True) or b"")
        try:
            accepted = await reader.read(1)
        except (ssl.SSLError, ConnectionError):
            accepted = b""
    finally:
        writer.transport.abort()  # a farewell would wait for its answer, and lose the verdict on one who gives none
    if accepted:
        return Seen(certificate=held)
    why = "it has expired there, or is not valid yet, or is of no authority that it knows"
    words = f"{target} hung up on our certificate: {why}"
    return Seen(ClientRefusedError(words), held)


def _other(target: str, server: Server, shown: list[str]) -> WrongServerError:
    names = ", ".join(shown[:_SHOWN]) or "no name"
    return WrongServerError(
        f"{target} is another server: expected URI:{server.uri} and DNS:{server.host} in its certificate, and shown "
        f"were {names}; correct the address, or give the server a certificate of its own"
    )


def _words(error: ssl.SSLError) -> str:
    return str(error.reason or error).replace("_", " ").lower()
