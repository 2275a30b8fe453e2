"""The ten kinds: names, models, columns."""

from __future__ import annotations

from msgspec import Struct

from .metadata import Resource
from .provider import Provider
from .virtualmachine import VirtualMachine
from .vmclass import VMClass
from .vmclone import VMClone
from .vmimage import VMImage
from .vmmigration import VMMigration
from .vmnetworkattachment import VMNetworkAttachment
from .vmplacementpolicy import VMPlacementPolicy
from .vmset import VMSet
from .vmsnapshot import VMSnapshot

GROUP = "infra.virtrigaud.io"
VERSION = "v1beta1"
API_VERSION = f"{GROUP}/{VERSION}"

Column = tuple[str, str, str, int]
"""Heading, OpenAPI type, JSON path, priority (1 shows with `-o wide` only)."""

_AGE: Column = ("Age", "date", ".metadata.creationTimestamp", 0)
_READY = ".status.conditions[?(@.type=='Ready')]"


class Kind(Struct, frozen=True, kw_only=True):
    """One kind of the API."""

    name: str
    plural: str
    short_name: str
    description: str
    model: type[Resource]
    columns: tuple[Column, ...]
    scale: bool = False

    @property
    def singular(self) -> str:
        """Lower-case name, as kubectl takes it."""
        return self.name.lower()


_ALL = (
    Kind(
        name="VirtualMachine",
        plural="virtualmachines",
        short_name="vm",
        description="One virtual machine on one provider.",
        model=VirtualMachine,
        columns=(
            ("Phase", "string", ".status.phase", 0),
            ("Power", "string", ".status.powerState", 0),
            ("Provider", "string", ".spec.providerRef.name", 0),
            ("Class", "string", ".spec.classRef.name", 0),
            ("Image", "string", ".spec.imageRef.name", 0),
            ("IPs", "string", ".status.ips[*]", 0),
            ("Ready", "string", f"{_READY}.status", 0),
            _AGE,
            ("Hypervisor Name", "string", ".status.hypervisorName", 1),
            ("Host", "string", ".status.host", 1),
            ("Message", "string", f"{_READY}.message", 1),
        ),
    ),
    Kind(
        name="VMClass",
        plural="vmclasses",
        short_name="vmclass",
        description="A size and shape that machines share.",
        model=VMClass,
        columns=(
            ("CPU", "integer", ".spec.cpu", 0),
            ("Memory", "string", ".spec.memory", 0),
            ("Firmware", "string", ".spec.firmware", 0),
            ("Used By", "integer", ".status.usedByVMs", 0),
            _AGE,
        ),
    ),
    Kind(
        name="VMImage",
        plural="vmimages",
        short_name="vmimg",
        description="What machines are built from.",
        model=VMImage,
        columns=(
            ("Ready", "boolean", ".status.ready", 0),
            ("Phase", "string", ".status.phase", 0),
            ("Size", "string", ".status.size", 0),
            ("Providers", "string", ".status.availableOn[*]", 0),
            _AGE,
            ("Message", "string", ".status.message", 1),
        ),
    ),
    Kind(
        name="VMNetworkAttachment",
        plural="vmnetworkattachments",
        short_name="vmnet",
        description="A wire that NICs are plugged into.",
        model=VMNetworkAttachment,
        columns=(
            ("Ready", "boolean", ".status.ready", 0),
            ("Type", "string", ".spec.network.type", 0),
            ("Connected VMs", "integer", ".status.connectedVMs", 0),
            ("Providers", "string", ".status.availableOn[*]", 0),
            _AGE,
        ),
    ),
    Kind(
        name="Provider",
        plural="providers",
        short_name="prov",
        description="A hypervisor, and how its provider server runs.",
        model=Provider,
        columns=(
            ("Type", "string", ".spec.type", 0),
            ("Endpoint", "string", ".spec.endpoint", 0),
            ("Healthy", "boolean", ".status.healthy", 0),
            ("Connected VMs", "integer", ".status.connectedVMs", 0),
            _AGE,
            ("Version", "string", ".status.version", 1),
            ("Message", "string", f"{_READY}.message", 1),
        ),
    ),
    Kind(
        name="VMMigration",
        plural="vmmigrations",
        short_name="vmmig",
        description="The move of a machine from one provider to another.",
        model=VMMigration,
        columns=(
            ("Source", "string", ".spec.source.vmRef.name", 0),
            ("Target", "string", ".spec.target.name", 0),
            ("Phase", "string", ".status.phase", 0),
            ("Progress", "string", ".status.progress.percentage", 0),
            _AGE,
        ),
    ),
    Kind(
        name="VMSnapshot",
        plural="vmsnapshots",
        short_name="vmsnap",
        description="A point in time of a machine.",
        model=VMSnapshot,
        columns=(
            ("VM", "string", ".spec.vmRef.name", 0),
            ("Phase", "string", ".status.phase", 0),
            ("Size", "string", ".status.size", 0),
            ("Created", "date", ".status.creationTime", 0),
            ("Expires", "date", ".status.expiryTime", 0),
            _AGE,
        ),
    ),
    Kind(
        name="VMClone",
        plural="vmclones",
        short_name="vmclone",
        description="A copy of a machine.",
        model=VMClone,
        columns=(
            ("Source", "string", ".spec.source.vmRef.name", 0),
            ("Target", "string", ".spec.target.name", 0),
            ("Phase", "string", ".status.phase", 0),
            ("Clone Type", "string", ".status.actualCloneType", 0),
            ("Progress", "string", ".status.progress.overallPercentage", 0),
            _AGE,
        ),
    ),
    Kind(
        name="VMSet",
        plural="vmsets",
        short_name="vmset",
        description="A number of like machines.",
        model=VMSet,
        columns=(
            ("Desired", "integer", ".spec.replicas", 0),
            ("Current", "integer", ".status.replicas", 0),
            ("Ready", "integer", ".status.readyReplicas", 0),
            ("Updated", "integer", ".status.updatedReplicas", 0),
            _AGE,
        ),
        scale=True,
    ),
    Kind(
        name="VMPlacementPolicy",
        plural="vmplacementpolicies",
        short_name="vmpp",
        description="Rules for where machines may run.",
        model=VMPlacementPolicy,
        columns=(
            ("Used By VMs", "integer", ".status.usedByCount", 0),
            ("Priority", "integer", ".spec.priority", 0),
            ("Successful", "integer", ".status.placementStats.successfulPlacements", 0),
            ("Failed", "integer", ".status.placementStats.failedPlacements", 0),
            _AGE,
        ),
    ),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}
"""Every kind by its name."""
