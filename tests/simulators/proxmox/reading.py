"""Who may read a volume, and so use it. Source: PVE::Storage::check_volume_access."""

from __future__ import annotations

from .calls import Call
from .contents import kind_of
from .disks import owner, storage_of
from .errors import PveError, refused

FILES = frozenset({"iso", "vztmpl", "import"})


def check_readable(call: Call, volid: str, *, vmid: int | None = None, owned_by: int | None = None) -> None:
    """Refuse who may not read a volume.

    Args:
        vmid: of the guest that it is for; one's own image is free to use.
        owned_by: the guest that a backup is of.
    Raises:
        PveError: a right is missing.
    """
    if volid.startswith("/"):
        if not call.who.root:
            raise refused("Only root can pass arbitrary filesystem paths.")
        return
    storage, kind = f"/storage/{storage_of(volid)}", kind_of(volid)
    if call.may(storage, "Datastore.Allocate"):
        return
    of = owner(volid) if kind == "images" else owned_by
    if kind in FILES:
        call.require(storage, "Datastore.AllocateSpace", "Datastore.Audit")
    elif kind == "images" and of is not None:
        if of != vmid:
            call.require(storage, "Datastore.Audit")
            call.require(f"/vms/{of}", "VM.Config.Disk")
    elif kind == "backup" and of is not None:
        call.require(storage, "Datastore.AllocateSpace")
        call.require(f"/vms/{of}", "VM.Backup")
    else:
        raise refused(f"missing privileges to access {volid}")


def readable(call: Call, volid: str, *, owned_by: int | None = None) -> bool:
    """Whether the caller may read a volume."""
    try:
        check_readable(call, volid, owned_by=owned_by)
    except PveError:
        return False
    return True
