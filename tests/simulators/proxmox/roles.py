"""The roles that every installation has, and where each kind of privilege counts."""

from __future__ import annotations


def _of(prefix: str, names: str) -> frozenset[str]:
    return frozenset(f"{prefix}.{name}" for name in names.split())


VM_USER = _of("VM", "Audit Backup Config.CDROM Config.Cloudinit Console PowerMgmt") | _of(
    "VM.GuestAgent", "Audit FileRead FileSystemMgmt FileWrite"
)
VM_ADMIN = VM_USER | _of(
    "VM",
    "Allocate Clone Config.CPU Config.Disk Config.HWType Config.Memory Config.Network Config.Options"
    " GuestAgent.Unrestricted Migrate Replicate Snapshot Snapshot.Rollback",
)
DATASTORE_USER = _of("Datastore", "AllocateSpace Audit")
DATASTORE_ADMIN = DATASTORE_USER | _of("Datastore", "Allocate AllocateTemplate")
SDN_USER = _of("SDN", "Use Audit")
SDN_ADMIN = SDN_USER | _of("SDN", "Allocate")
MAPPING_USER = _of("Mapping", "Use")
MAPPING_ADMIN = _of("Mapping", "Audit Modify Use")
SYS_ADMIN = _of("Sys", "Audit Console Syslog") | {"Permissions.Modify"}
USER_ADMIN = _of("Group", "Allocate") | _of("Realm", "AllocateUser") | _of("User", "Modify")
POOL_ADMIN = _of("Pool", "Allocate Audit")
AUDITOR = frozenset({"Datastore.Audit", "Mapping.Audit", "Pool.Audit", "SDN.Audit", "Sys.Audit"}) | {
    "VM.Audit",
    "VM.GuestAgent.Audit",
}
ROOT_ONLY = frozenset({"Permissions.Modify", "Realm.Allocate"}) | _of("Sys", "AccessNetwork Incoming Modify PowerMgmt")
ADMIN = (
    VM_ADMIN | DATASTORE_ADMIN | SDN_ADMIN | MAPPING_ADMIN | SYS_ADMIN | USER_ADMIN | POOL_ADMIN | AUDITOR
)  # everything that may be handed out

ROLES: dict[str, frozenset[str]] = {
    "Administrator": ADMIN | ROOT_ONLY,
    "NoAccess": frozenset(),
    "PVEAdmin": ADMIN - {"Permissions.Modify"},
    "PVEAuditor": AUDITOR,
    "PVEDatastoreAdmin": DATASTORE_ADMIN,
    "PVEDatastoreUser": DATASTORE_USER,
    "PVEMappingAdmin": MAPPING_ADMIN,
    "PVEMappingAuditor": _of("Mapping", "Audit"),
    "PVEMappingUser": MAPPING_USER,
    "PVEPoolAdmin": POOL_ADMIN,
    "PVEPoolUser": _of("Pool", "Audit"),
    "PVESDNAdmin": SDN_ADMIN,
    "PVESDNUser": SDN_USER,
    "PVESysAdmin": SYS_ADMIN,
    "PVETemplateUser": _of("VM", "Audit Clone"),
    "PVEUserAdmin": USER_ADMIN,
    "PVEVMAdmin": VM_ADMIN,
    "PVEVMUser": VM_USER,
}

AREAS: dict[str, tuple[str, ...]] = {  # what a login's `cap` tells, by the part of the tree
    "vms": ("VM.", "Permissions.Modify"),
    "storage": ("Datastore.", "Permissions.Modify"),
    "access": ("User.", "Group.", "Permissions.Modify"),
    "nodes": ("Sys.", "Permissions.Modify"),
    "sdn": ("SDN.", "Permissions.Modify"),
    "mapping": ("Mapping.", "Permissions.Modify"),
    "dc": ("Sys.Audit", "Sys.Modify", "SDN."),
}
