"""The resources that vrtg knows by name; others are looked up by discovery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vrtg.failures import NotFoundError, UsageError

if TYPE_CHECKING:
    from vrtg.api import Api

GROUP, VERSION = "infra.virtrigaud.io", "v1beta1"


@dataclass(frozen=True)
class Resource:
    """One kind and where it is served."""

    kind: str
    plural: str
    group: str
    version: str
    names: tuple[str, ...]
    """What people call it: singular, plural, short."""
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def label(self) -> str:
        """What messages call one object: "virtualmachine.infra.virtrigaud.io"."""
        return f"{self.kind.lower()}.{self.group}" if self.group else self.kind.lower()


def _ours(kind: str, plural: str, *short: str) -> Resource:
    return Resource(kind, plural, GROUP, VERSION, (kind.lower(), plural, *short))


VIRTUAL_MACHINE = _ours("VirtualMachine", "virtualmachines", "vms", "vm")
PROVIDER = _ours("Provider", "providers", "prov", "provider")
VM_CLASS = _ours("VMClass", "vmclasses", "class")
VM_IMAGE = _ours("VMImage", "vmimages", "vmimg", "image")
VM_NETWORK = _ours("VMNetworkAttachment", "vmnetworkattachments", "vmnet", "network")
OURS = (
    VIRTUAL_MACHINE,
    PROVIDER,
    VM_CLASS,
    VM_IMAGE,
    VM_NETWORK,
    _ours("VMMigration", "vmmigrations", "vmmig", "migration"),
    _ours("VMSnapshot", "vmsnapshots", "vmsnap", "snapshot"),
    _ours("VMClone", "vmclones", "clone"),
    _ours("VMSet", "vmsets", "vmset"),
    _ours("VMPlacementPolicy", "vmplacementpolicies", "vmpp"),
)
NAMESPACE = Resource("Namespace", "namespaces", "", "v1", ("namespace", "namespaces", "ns"), namespaced=False)
EVENT = Resource("Event", "events", "", "v1", ("event", "events", "ev"))
SECRET = Resource("Secret", "secrets", "", "v1", ("secret", "secrets"))
CRD = Resource(
    "CustomResourceDefinition",
    "customresourcedefinitions",
    "apiextensions.k8s.io",
    "v1",
    ("customresourcedefinition", "customresourcedefinitions", "crd", "crds"),
    namespaced=False,
)
KNOWN = (*OURS, NAMESPACE, EVENT, SECRET, CRD)


def by_name(name: str, api: Api) -> Resource:
    """The resource that people call `name`; unknown ones are asked of the server.

    Raises:
        UsageError: the server does not serve it either.
    """
    wanted = name.lower().split(".")[0]
    for resource in KNOWN:
        if wanted in resource.names:
            return resource
    for resource in discover(api):
        if wanted in resource.names:
            return resource
    known = ", ".join(sorted(resource.names[-1] for resource in OURS))
    raise UsageError(f'there is no resource "{name}" (of ours there are: {known})')


def by_kind(api_version: str, kind: str, api: Api) -> Resource:
    """The resource of a manifest.

    Raises:
        NotFoundError: the server does not serve the kind.
    """
    for resource in KNOWN:
        if (resource.api_version, resource.kind) == (api_version, kind):
            return resource
    group, _, version = api_version.rpartition("/")
    for resource in discover(api, group, version):
        if resource.kind == kind:
            return resource
    raise NotFoundError(f"the API server does not serve {kind} of {api_version}: check apiVersion and kind")


def discover(api: Api, group: str | None = None, version: str | None = None) -> list[Resource]:
    """What the server serves: all preferred versions, or one group and version."""
    if version:
        places = [(group or "", version)]
    else:
        groups = api.raw("/apis").get("groups", [])
        places = [("", "v1"), *((g["name"], g["preferredVersion"]["version"]) for g in groups)]
    found = []
    for place, at in places:
        try:
            answer = api.raw(f"/apis/{place}/{at}" if place else f"/api/{at}")
        except NotFoundError:
            continue
        for entry in answer.get("resources", []):
            if "/" in entry["name"]:
                continue
            names = (entry["name"], entry.get("singularName") or entry["kind"].lower(), *entry.get("shortNames", []))
            found.append(Resource(entry["kind"], entry["name"], place, at, names, bool(entry["namespaced"])))
    return found
