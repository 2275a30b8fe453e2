"""Who owns the machines: an id of the installation that outlives every process and every object of ours."""

from __future__ import annotations

from pathlib import Path

from .api import Api
from .core import NAMESPACES

ANCHOR = "kube-system"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


async def owner_id(api: Api, given: str = "") -> str:
    """The id that was given, else the UID of the namespace kube-system, which lives as long as the cluster.

    Raises:
        ValueError: there is no such namespace.
        ApiError: the API cannot be asked.
    """
    if given:
        return given
    namespace = await api.get(NAMESPACES, "", ANCHOR)
    if namespace is None:
        raise ValueError(f"namespace {ANCHOR} does not exist, so there is no id for this installation; give --owner")
    return namespace.metadata.uid


def own_namespace() -> str:
    """The namespace of the pod that we run in; empty outside of a cluster."""
    return _ACCOUNT.read_text().strip() if _ACCOUNT.exists() else ""
