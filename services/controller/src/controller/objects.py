"""The kinds of infra.virtrigaud.io as API resources, and their objects as subjects of Events."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from kinds.provider import Provider
from kinds.virtualmachine import VirtualMachine
from kinds.vmclass import VMClass
from kinds.vmclone import VMClone
from kinds.vmimage import VMImage
from kinds.vmmigration import VMMigration
from kinds.vmnetworkattachment import VMNetworkAttachment
from kinds.vmplacementpolicy import VMPlacementPolicy
from kinds.vmset import VMSet
from kinds.vmsnapshot import VMSnapshot

from .api import Resource
from .events import Subject

API_VERSION = "infra.virtrigaud.io/v1beta1"

VIRTUAL_MACHINES = Resource(API_VERSION, "VirtualMachine", "virtualmachines", VirtualMachine)
CLASSES = Resource(API_VERSION, "VMClass", "vmclasses", VMClass)
IMAGES = Resource(API_VERSION, "VMImage", "vmimages", VMImage)
NETWORKS = Resource(API_VERSION, "VMNetworkAttachment", "vmnetworkattachments", VMNetworkAttachment)
PROVIDERS = Resource(API_VERSION, "Provider", "providers", Provider)
MIGRATIONS = Resource(API_VERSION, "VMMigration", "vmmigrations", VMMigration)
SNAPSHOTS = Resource(API_VERSION, "VMSnapshot", "vmsnapshots", VMSnapshot)
CLONES = Resource(API_VERSION, "VMClone", "vmclones", VMClone)
SETS = Resource(API_VERSION, "VMSet", "vmsets", VMSet)
POLICIES = Resource(API_VERSION, "VMPlacementPolicy", "vmplacementpolicies", VMPlacementPolicy)

NOT_YET: tuple[Resource[Any], ...] = (MIGRATIONS, SNAPSHOTS, CLONES, SETS, POLICIES)


def subject_of(item: Any, kind: str) -> Subject:
    """Any: an object of whichever kind."""
    meta = item.metadata
    return Subject(API_VERSION, kind, meta.namespace, meta.name, meta.uid)


def created(item: Any, now: float) -> float:
    """When the object was made, by the API server's clock in whole seconds since 1970; never later than now."""
    try:
        made = datetime.fromisoformat(item.metadata.creation_timestamp or "").timestamp()
    except ValueError:
        return now
    return min(now, made)
