"""The resources that vrtg knows by name; others are looked up, see discovery.py."""

from __future__ import annotations

from dataclasses import dataclass

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
