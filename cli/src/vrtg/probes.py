"""Does it answer?"""

from __future__ import annotations

import http.client
from pathlib import Path

from vrtg.api import Api
from vrtg.failures import CommandError
from vrtg.kubeconfig import Target


def serves(target: Target, path: str, *, timeout: float = 2.0) -> bool:
    """Whether a GET of a text path (/readyz, /livez) succeeds within `timeout` seconds."""
    api = Api(target, timeout=timeout)
    try:
        return api.text(path).strip().startswith("ok")
    except CommandError:
        return False
    finally:
        api.close()


def ready(file: Path, *, timeout: float = 2.0) -> bool:
    """Whether the process that wrote its metrics address into this file says that it is ready.

    Raises:
        OSError: it has not written it yet, or does not listen.
    """
    host, _, port = file.read_text().strip().rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    finally:
        connection.close()
