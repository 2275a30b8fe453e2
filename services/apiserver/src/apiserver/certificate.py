"""The server's certificate, taken up again when its files change: it may end before the server does."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)
LOOK_SECONDS = 5.0


class Certificate:
    """TLS 1.3 with it, for whoever connects; a change that cannot be used is told once and not taken up."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises: ssl.SSLError, OSError: the files cannot be used."""
        self._cert, self._key = cert, key
        self._stamp = self._look()
        self.context = _context()
        self.context.load_cert_chain(cert, key)

    async def run(self) -> None:
        """Look at the files now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.refresh()

    def refresh(self) -> bool:
        """Take up files that changed, for connections from now on; whether there were any that can be used."""
        if (stamp := self._look()) == self._stamp:
            return False
        self._stamp = stamp
        try:
            # In another context first: one that is given half a pair has lost what it had.
            _context().load_cert_chain(self._cert, self._key)
            self.context.load_cert_chain(self._cert, self._key)
        except (ssl.SSLError, OSError) as error:
            log.warning("apiserver.certificate.refused", cert=str(self._cert), error=str(error))
            return False
        log.info("apiserver.certificate.renewed", cert=str(self._cert))
        return True

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in (self._cert, self._key))


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Another one when the file is; None for one that is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
