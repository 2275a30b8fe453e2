"""libvirt's event loop: one daemon thread per process.

libvirt delivers events, keepalive and stream callbacks through one process-wide loop, registered once and for ever.
Its C implementation is used, on a thread of its own, and not `libvirtaio`: libvirt registers handles and timers from
whichever thread makes a call, which `libvirtaio` passes on to asyncio's methods that only the loop's thread may call;
and the keepalive answers here even while the asyncio loop is busy. Callbacks hop to asyncio by `call_soon_threadsafe`.
"""

from __future__ import annotations

import threading

import libvirt

_lock = threading.Lock()
_thread: threading.Thread | None = None


def ensure_running() -> None:
    """Start libvirt's event loop if this process has none yet; must precede the first connection."""
    global _thread  # the registration itself is global to the process, in libvirt
    with _lock:
        if _thread is None:
            libvirt.virEventRegisterDefaultImpl()
            libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors are raised; stderr is not a log
            _thread = threading.Thread(target=_run, name="libvirt-events", daemon=True)
            _thread.start()


def _run() -> None:
    # A timer keeps the loop turning, so that a handle added by another thread is never waited for.
    libvirt.virEventAddTimeout(1000, lambda _timer, _opaque: None, None)
    while True:
        libvirt.virEventRunDefaultImpl()
