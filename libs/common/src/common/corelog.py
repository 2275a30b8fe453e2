"""gRPC's core tells of a handshake that it refused on standard error alone: its lines become records of our log.

It writes them with GRPC_VERBOSITY=INFO, which must be set before the process starts; `common` sets NONE otherwise.
Everything else that is written to standard error goes where it went, without what `redact` knows. Lines that are in the
pipe when the process is killed are lost.
"""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from common import logging, redact

log = logging.get(__name__)

QUIET_SECONDS = 10.0
"""For how long the same reason is told once: a scanner must not fill the disk."""
_CORE = re.compile(r"^[IWE]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+\.(?:cc|h):\d+\] ")
_REFUSED = re.compile(r"Handshake failed with error \S+: (?:error:\w+:SSL routines:OPENSSL_internal:)?(.+)$")
_WORDS = (
    ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "the client showed no certificate"),
    (
        "unable to get local issuer certificate",
        "the client's certificate is of an authority that is not in our CA file",
    ),
    ("self signed certificate", "the client's certificate is of an authority that is not in our CA file"),
    ("certificate has expired", "the client's certificate has expired"),
    ("certificate is not yet valid", "the client's certificate is not valid yet"),
    ("unsupported certificate purpose", "the client's certificate is not one for clients"),
    ("WRONG_VERSION_NUMBER", "the client does not speak TLS"),
    ("HTTP_REQUEST", "the client does not speak TLS"),
    ("UNSUPPORTED_PROTOCOL", "the client does not speak TLS 1.3"),
    ("NO_SHARED_CIPHER", "the client does not speak TLS 1.3"),
)


def wanted() -> bool:
    """Whether gRPC's core was told to speak."""
    return os.environ.get("GRPC_VERBOSITY", "").upper() in ("INFO", "DEBUG")


@contextmanager
def taken_up() -> Iterator[TextIO]:
    """While open, core's lines are ours; answers with the stream on which the log has to be written meanwhile."""
    sys.stderr.flush()
    kept = os.dup(2)
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    out = io.TextIOWrapper(io.FileIO(kept, "w", closefd=False), encoding="utf-8", errors="replace", write_through=True)
    refusals = Refusals(time.monotonic)
    thread = threading.Thread(target=_read, args=(read, kept, refusals), name="grpc core log", daemon=True)
    thread.start()
    try:
        yield out
    finally:
        os.dup2(kept, 2)  # the last writer of the pipe is gone with it, so the thread ends
        thread.join()
        os.close(read)
        os.close(kept)


class Refusals:
    """Tells each reason once in a while, with how often it came."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._told: dict[str, tuple[float, int]] = {}

    def take(self, line: str) -> bool:
        """Whether the line is core's own, and need not be shown as it is."""
        if not _CORE.match(line):
            return False
        found = _REFUSED.search(line)
        if found is not None:
            self._tell(_reason(found[1]))
        return True

    def _tell(self, why: str) -> None:
        at, more = self._told.get(why, (float("-inf"), 0))
        if self._now() - at < QUIET_SECONDS:
            self._told[why] = (at, more + 1)
            return
        self._told[why] = (self._now(), 0)
        log.warning("rpc.handshake.refused", why=why, times=more + 1)


def _reason(text: str) -> str:
    return next((words for sign, words in _WORDS if sign in text), text)


def _read(source: int, out: int, refusals: Refusals) -> None:
    with os.fdopen(source, "rb", closefd=False) as lines:
        for line in lines:
            text = line.decode("utf-8", "replace")
            with suppress(OSError):  # the disk is full, say: this line is lost, and the next one is read all the same
                if not refusals.take(text.rstrip("\n")):
                    os.write(out, redact.text(text).encode())  # a C library may quote a URL with its password
