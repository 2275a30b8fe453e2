"""Certificates of the simulated network: real ones, made once per process, and handshakes that check them."""

from __future__ import annotations

import base64
import functools
import tempfile
from datetime import timedelta
from pathlib import Path

from common.clock import ManualClock
from common.pki import Authority
from common.tls import CONTROLLER, Material, TlsFiles, Watched
from cryptography import x509

from .loop import START

GENERATIONS = 6
"""Authorities that there are; whoever rotates more often begins anew with the first."""


@functools.cache
def _material(generation: int, name: str) -> Material:
    """A certificate of one of the authorities."""
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        return _authority(generation).issue(Path(place) / "leaf", name).read()


@functools.cache
def _authority(generation: int) -> Authority:
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        clock = ManualClock(START - timedelta(days=30))  # the simulated clocks are set back, too
        return Authority.create(Path(place), name=f"generation {generation}", clock=clock)


@functools.cache
def make_all(*servers: str) -> None:
    """Before a run, whose chance and whose clock have no part in it."""
    for generation in range(GENERATIONS):
        for name in (CONTROLLER, *servers):
            _material(generation, name)


def secret(generation: int) -> dict[str, str]:
    """Data of the Secret that the controllers dial with."""
    found = _material(generation % GENERATIONS, CONTROLLER)
    parts = {"tls.crt": found.cert, "tls.key": found.key, "ca.crt": found.ca}
    return {name: base64.b64encode(data).decode() for name, data in parts.items()}


def write(place: Path, generation: int, name: str) -> TlsFiles:
    """What a server serves with, put into its place in one go."""
    found = _material(generation % GENERATIONS, name)
    place.mkdir(parents=True, exist_ok=True)
    files = TlsFiles(place / "tls.crt", place / "tls.key", place / "ca.crt")
    for path, data in ((files.ca, found.ca), (files.key, found.key), (files.cert, found.cert)):
        path.write_bytes(data)
        path.chmod(0o600)
    return files


def shake_hands(client: Material, server: Watched) -> bool:
    """Whether each trusts the other. A server looks at its files at each handshake."""
    server.refresh()
    return _issued(client.cert, server.material.ca) and _issued(server.material.cert, client.ca)


@functools.cache
def _issued(cert: bytes, authority: bytes) -> bool:
    leaf, issuers = x509.load_pem_x509_certificate(cert), x509.load_pem_x509_certificates(authority)
    return any(leaf.issuer == each.subject for each in issuers)
