"""Storage policies: names looked up in vCenter's storage policy service (PBM), and their ids put into requests.

The service is another SOAP endpoint of the vCenter that takes the session of this one; an ESXi host has none. A policy
is asked for by its name or its id. What a disk was given is in the stamp, written by the task that gave it; what it has
by now `policywatch` keeps looking at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from common.errors import InvalidSpecError, NotSupportedError, ResourceNotFoundError
from pyVmomi import VmomiSupport, pbm
from pyVmomi.SoapAdapter import SoapStubAdapter

from provider_vsphere.session.login import Login, session_key
from provider_vsphere.session.vsphere import Vsphere

_PATH, _VERSION = "/pbm/sdk", "pbm.version.version1"
_COOKIE = "vcSessionCookie"
"""Name of the SOAP header that carries the session. Source: Storage Policy API, "Connecting to the SPBM server"."""
_TIMEOUT = 30.0
_BATCH = 500
"""Disks in one question."""


async def ids(vsphere: Vsphere, names: Iterable[str], doing: str) -> dict[str, str]:
    """Id of each policy.

    Args:
        names: names or ids; empty ones are left out.
    Raises:
        ResourceNotFoundError: there is none; says which there are.
        InvalidSpecError: several have the name.
    """
    wanted = sorted({name for name in names if name})
    if not wanted:
        return {}
    if not vsphere.login(doing).about.is_vcenter:
        raise NotSupportedError(f"{doing}: an ESXi host has no storage policies; only a vCenter does")
    there = await vsphere.call(doing, lambda login: _all(vsphere, login))
    return {name: pick(name, there, doing) for name in wanted}


def pick(wanted: str, there: dict[str, str], doing: str) -> str:
    """The id of the one policy that is meant.

    Args:
        there: names of all by their ids.
    """
    found = [id for id, name in there.items() if wanted in (id, name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidSpecError(f"{doing}: storage policy {wanted}: several have this name; give one of {sorted(found)}")
    names = ", ".join(sorted(there.values())) or "none"
    raise ResourceNotFoundError(f"{doing}: storage policy {wanted}: there is none; there: {names}")


async def given(vsphere: Vsphere, disks: Sequence[str], doing: str) -> dict[str, tuple[str, str]]:
    """Id and name of the policy of each disk, empty for none; a disk of which the service cannot tell is left out.

    Args:
        disks: "vm-42:2000", by the VM's id and the device's key.
    """

    def read(login: Login) -> dict[str, tuple[str, str]]:
        with _manager(vsphere, login) as manager:
            names = _names(manager)
            found = {}
            for start in range(0, len(disks), _BATCH):
                refs = [
                    pbm.ServerObjectRef(objectType="virtualDiskId", key=key, serverUuid=login.about.uuid or None)
                    for key in disks[start : start + _BATCH]
                ]
                for each in manager.PbmQueryAssociatedProfiles(entities=refs):
                    if each.fault is None:
                        id = next((str(profile.uniqueId) for profile in each.profileId or ()), "")
                        found[str(each.object.key)] = (id, names.get(id, id))
            return found

    return await vsphere.call(doing, read)


def _all(vsphere: Vsphere, login: Login) -> dict[str, str]:
    """Names of all policies by their ids; blocks."""
    with _manager(vsphere, login) as manager:
        return _names(manager)


def _names(manager: Any) -> dict[str, str]:
    storage = pbm.profile.ResourceType(resourceType="STORAGE")
    found = manager.PbmQueryProfile(resourceType=storage, profileCategory="REQUIREMENT")
    every = manager.PbmRetrieveContent(profileIds=found) if found else []
    return {str(each.profileId.uniqueId): str(each.name) for each in every}


@contextmanager
def _manager(vsphere: Vsphere, login: Login) -> Iterator[Any]:
    """The service's manager of policies, in our session."""
    # The request context is the thread's, and pyvmomi sends it with whatever that thread asks for: it must not stay.
    context = VmomiSupport.GetRequestContext()
    context[_COOKIE] = session_key(login.instance)
    stub = _stub(vsphere)
    try:
        yield pbm.ServiceInstance("ServiceInstance", stub).PbmRetrieveServiceContent().profileManager
    finally:
        context.pop(_COOKIE, None)
        stub.DropConnections()


def _stub(vsphere: Vsphere) -> Any:
    parts = urlsplit(vsphere.endpoint.url)
    encrypted = parts.scheme == "https"
    return SoapStubAdapter(
        host=parts.hostname,
        port=(parts.port or 443) if encrypted else -(parts.port or 80),  # pyvmomi's sign for no TLS
        path=_PATH,
        version=_VERSION,
        sslContext=vsphere.endpoint.trust() if encrypted else None,
        poolSize=0,
        httpConnectionTimeout=_TIMEOUT,
    )
