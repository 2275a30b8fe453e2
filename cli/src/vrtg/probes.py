"""Does it answer?"""

from __future__ import annotations

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
