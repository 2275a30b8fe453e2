"""Disks and drives."""

from __future__ import annotations

from common import v1

from providerkit.violations import MIB, size

from .situation import Situation, because, mib, never

_Kind = v1.ChangeKind
_Effect = v1.Effect


def changes_of(at: Situation) -> list[v1.Change]:
    """Disks that we gave a name come, grow, change and go; others, and the one to boot from, are left alone."""
    have = {disk.name: disk for disk in at.seen.disks if disk.name}
    changes: list[v1.Change] = []
    for index, disk in enumerate(at.want.disks):
        if disk.name in have:
            changes += _known_disk(at, disk, have[disk.name])
        elif disk.name not in at.blocked:
            changes.append(_attach_disk(at, disk, boot=index == 0))
    wanted = {disk.name for disk in at.want.disks}
    extra = [disk for name, disk in have.items() if name not in wanted]
    if not at.want.disks:
        extra = [disk for disk in extra if disk.owned]  # a spec may never have described the others
    return [*(_detach_disk(at, disk) for disk in extra), *changes]


def _attach_disk(at: Situation, disk: v1.DiskSpec, *, boot: bool) -> v1.Change:
    field = f"disks[{disk.name}]"
    if boot:
        why = "the machine has no disk of the name that its boot disk has; a fresh one would hide what became of it"
        message = f"attach boot disk {disk.name}"
        return never(_Kind.ATTACH_DISK, field, message, _Effect.RECREATE, "BootDiskMissing", why, disk.name)
    reasons = (
        []
        if at.can.disk_hot_add
        else [because("DiskHotAddUnsupported", "this provider adds no disks to a running machine")]
    )
    message = f"attach disk {disk.name}" + (f" of {size(disk.size_bytes)}" if disk.size_bytes else "")
    return at.shape(
        _Kind.ATTACH_DISK, field, message, reasons, subject=disk.name,
        offline=at.can.disk_offline_change, offline_code="DiskOfflineChangeUnsupported",
    )  # fmt: skip


def _detach_disk(at: Situation, disk: v1.Disk) -> v1.Change:
    field, message = f"disks[{disk.name}]", f"detach disk {disk.name} and keep its content"
    if disk is at.seen.disks[0]:
        why = "it is the disk that the machine boots from"
        return never(_Kind.DETACH_DISK, field, message, _Effect.RECREATE, "BootDisk", why, disk.name)
    if not disk.owned:
        why = "we did not make this disk; detach it by hand"
        return never(_Kind.DETACH_DISK, field, message, _Effect.UNSUPPORTED, "ForeignDisk", why, disk.name)
    reasons = []
    if not at.can.disk_hot_remove:
        reasons.append(because("DiskHotRemoveUnsupported", "this provider takes no disks from a running machine"))
    return at.shape(
        _Kind.DETACH_DISK, field, message, reasons, subject=disk.name,
        offline=at.can.disk_offline_change, offline_code="DiskOfflineChangeUnsupported",
    )  # fmt: skip


def _known_disk(at: Situation, want: v1.DiskSpec, have: v1.Disk) -> list[v1.Change]:
    changes = [*_disk_size(at, want, have), *_fixed_disk_fields(at, want, have)]
    where = f"disks[{want.name}]"
    for field, wish, live in (
        ("iops_limit", str(want.iops_limit or ""), True),
        ("sharing", want.sharing.replace("noSharing", ""), False),
        ("storage_policy", want.storage_policy, True),
    ):
        changes += at.setting(_Kind.UPDATE_DISK, f"{where}.{field}", wish, live=live, subject=want.name)
    return changes


def _disk_size(at: Situation, want: v1.DiskSpec, have: v1.Disk) -> list[v1.Change]:
    field, sizes = f"disks[{want.name}].size_bytes", f"from {size(have.size_bytes)} to {size(want.size_bytes)}"
    if not want.size_bytes or not have.size_bytes or mib(want.size_bytes) == mib(have.size_bytes):
        return []
    granule = max(MIB, at.limits.disk_granularity_bytes)
    if want.size_bytes < have.size_bytes < want.size_bytes + granule:
        return []  # the storage rounded it up
    if want.size_bytes < have.size_bytes:
        why = "a disk never shrinks: the guest's data would be cut off"
        message = f"shrink disk {want.name} {sizes}"
        return [never(_Kind.GROW_DISK, field, message, _Effect.UNSUPPORTED, "DiskShrink", why, want.name)]
    if have.fixed_size_reason:
        message, why = f"grow disk {want.name} {sizes}", have.fixed_size_reason
        return [never(_Kind.GROW_DISK, field, message, _Effect.UNSUPPORTED, "DiskSizeFixed", why, want.name)]
    reasons = []
    if not at.can.disk_online_grow:
        reasons.append(because("DiskOnlineGrowUnsupported", "this provider grows no disks of a running machine"))
    if not want.online_grow:
        reasons.append(because("OnlineGrowNotAllowed", "the spec does not allow growth while the machine runs"))
    return [
        at.shape(
            _Kind.GROW_DISK, field, f"grow disk {want.name} {sizes}", reasons, subject=want.name,
            offline=at.can.disk_offline_grow, offline_code="DiskOfflineGrowUnsupported",
        )
    ]  # fmt: skip


def _fixed_disk_fields(at: Situation, want: v1.DiskSpec, have: v1.Disk) -> list[v1.Change]:
    where = f"disks[{want.name}]"
    changes = []

    def fixed(field: str, message: str, effect: v1.Effect, code: str, why: str) -> None:
        changes.append(never(_Kind.UPDATE_DISK, f"{where}.{field}", message, effect, code, why, want.name))

    bus, kind = v1.DiskBus.UNSPECIFIED, v1.DiskProvisioning.UNSPECIFIED
    if want.bus is not bus and have.bus is not bus and want.bus is not have.bus:
        message = f"move disk {want.name} from bus {have.bus.name} to {want.bus.name}"
        fixed("bus", message, _Effect.RECREATE, "DiskBusFixed", "the guest may not start from another bus")
    if want.provisioning is not kind and have.provisioning is not kind and want.provisioning is not have.provisioning:
        message = f"make disk {want.name} {want.provisioning.name} instead of {have.provisioning.name}"
        fixed("provisioning", message, _Effect.UNSUPPORTED, "DiskProvisioningFixed", "a disk keeps how it was made")
    if want.storage and have.storage and want.storage != have.storage:
        message = f"move disk {want.name} from storage {have.storage} to {want.storage}"
        if at.can.disk_move:
            changes.append(at.shape(_Kind.MOVE_DISK, f"{where}.storage", message, [], subject=want.name))
        else:
            why = "this provider leaves a disk on the storage that it was made on"
            fixed("storage", message, _Effect.UNSUPPORTED, "DiskMoveUnsupported", why)
    controller = at.seen.settings.get(f"{where}.controller_type", "")
    if want.controller_type and controller and want.controller_type != controller:
        message = f"move disk {want.name} from a {controller} controller to {want.controller_type}"
        why = "the guest may not start from another controller"
        fixed("controller_type", message, _Effect.RECREATE, "DiskControllerFixed", why)
    if want.image is not None and have.image_id and want.image.id != have.image_id:
        message = f"build disk {want.name} from image {want.image.id} instead of {have.image_id}"
        fixed("image", message, _Effect.RECREATE, "DiskSourceFixed", "an image is read once, when the disk is made")
    if want.existing is not None and have.owned:
        message = f"take the existing disk {want.existing.id} instead of the one made for {want.name}"
        fixed("existing", message, _Effect.RECREATE, "DiskSourceFixed", "a disk of this name was made already")
    return changes


def cdroms(at: Situation) -> list[v1.Change]:
    """A medium is changed at any time; a drive itself comes and goes while the machine is off."""
    have = {cdrom.name: cdrom for cdrom in at.seen.cdroms if cdrom.name}
    wanted = {cdrom.name: cdrom for cdrom in at.want.cdroms}
    changes = []
    for name in have:
        if name not in wanted:
            changes.append(
                at.needs_off(
                    _Kind.DETACH_CDROM, f"cdroms[{name}]", f"remove drive {name}", "CdromFixedWhileOn", subject=name
                )
            )
    for name, want in wanted.items():
        field = f"cdroms[{name}]"
        if name not in have:
            message = f"add drive {name}" + (f" with {want.medium}" if want.medium else "")
            changes.append(at.needs_off(_Kind.SET_CDROM, field, message, "CdromFixedWhileOn", subject=name))
        elif have[name].medium != want.medium:
            message = f"put {want.medium} into drive {name}" if want.medium else f"empty drive {name}"
            changes.append(at.shape(_Kind.SET_CDROM, f"{field}.medium", message, [], subject=name))
    return changes
