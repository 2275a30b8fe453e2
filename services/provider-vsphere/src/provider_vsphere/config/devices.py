"""Disks and their controllers: which slot a disk goes to, and the device changes that put it there.

A slot is written like "scsi0:1", "sata0:2", "nvme0:0", "ide1:0": bus family, bus number, unit. It survives a
migration, which a file's path does not, and so the stamp knows disks by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from common import v1
from common.errors import InvalidSpecError
from pyVmomi import vim

_dev: Final = vim.vm.device


@dataclass(frozen=True)
class Family:
    """One kind of bus.

    Attributes:
        kind: class of its controllers.
        buses: controllers that a machine can have of it.
        units: slots of one controller.
        reserved: the slot that the controller itself takes, or -1.
    """

    name: str
    kind: Any
    buses: int
    units: int
    reserved: int = -1


SCSI: Final = Family("scsi", _dev.VirtualSCSIController, 4, 16, reserved=7)
SATA: Final = Family("sata", _dev.VirtualSATAController, 4, 30)
NVME: Final = Family("nvme", _dev.VirtualNVMEController, 4, 15)
IDE: Final = Family("ide", _dev.VirtualIDEController, 2, 2)
FAMILIES: Final = (SCSI, SATA, NVME, IDE)

_MEDIUM: Final = re.compile(r"\[[^\]]+\] [^\s/][^\n]*")
_BUSES: Final = {
    v1.DiskBus.UNSPECIFIED: SCSI,
    v1.DiskBus.SCSI: SCSI,
    v1.DiskBus.SATA: SATA,
    v1.DiskBus.NVME: NVME,
    v1.DiskBus.IDE: IDE,
}
_DEFAULT_CLASS: Final = {
    "scsi": _dev.ParaVirtualSCSIController,
    "sata": _dev.VirtualAHCIController,
    "nvme": _dev.VirtualNVMEController,
    "ide": _dev.VirtualIDEController,
}
CONTROLLER_TYPES: Final = {
    "pvscsi": (SCSI, _dev.ParaVirtualSCSIController),
    "lsilogic": (SCSI, _dev.VirtualLsiLogicController),
    "lsilogic-sas": (SCSI, _dev.VirtualLsiLogicSASController),
    "buslogic": (SCSI, _dev.VirtualBusLogicController),
    "ahci": (SATA, _dev.VirtualAHCIController),
    "nvme": (NVME, _dev.VirtualNVMEController),
    "ide": (IDE, _dev.VirtualIDEController),
}
"""What DiskSpec.controller_type may say."""


# -- what is there -----------------------------------------------------------------------------------------------------


def disks_of(devices: Iterable[Any]) -> list[Any]:
    """Every disk, in the order of the keys: the order in which a BIOS tries them unless it is told another."""
    return sorted((each for each in devices if isinstance(each, _dev.VirtualDisk)), key=lambda disk: int(disk.key))


def family_of(controller: Any) -> Family | None:
    """Its bus family; None for a controller that takes no disks."""
    return next((family for family in FAMILIES if isinstance(controller, family.kind)), None)


def controller_of(devices: Iterable[Any], device: Any) -> Any | None:
    """The controller that a device hangs on."""
    return next((each for each in devices if each.key == device.controllerKey and family_of(each)), None)


def slot_of(devices: Iterable[Any], disk: Any) -> str:
    """The disk's slot, as "scsi0:1"; empty when its controller is not among the devices."""
    controller = controller_of(devices, disk)
    family = family_of(controller)
    return f"{family.name}{controller.busNumber}:{disk.unitNumber}" if controller is not None and family else ""


def disk_at(devices: Iterable[Any], slot: str) -> Any | None:
    """The disk in this slot."""
    listed = list(devices)
    return next((disk for disk in disks_of(listed) if slot and slot_of(listed, disk) == slot), None)


def capacity(disk: Any) -> int:
    """Size in bytes. Source: VirtualDisk.capacityInBytes; unset before vSphere 5.5 and by vcsim's model VMs."""
    return int(disk.capacityInBytes or (disk.capacityInKB or 0) * 1024)


def file_of(disk: Any) -> str:
    """Datastore path of a disk, "[ds] dir/name.vmdk"; empty for one that is no file."""
    return str(getattr(disk.backing, "fileName", None) or "")


def chain_of(disk: Any) -> list[str]:
    """Its file and those that it stands on, top first; a snapshot and a linked clone put a delta on top."""
    files, backing = [], disk.backing
    while backing is not None:
        if file := str(getattr(backing, "fileName", None) or ""):
            files.append(file)
        backing = getattr(backing, "parent", None)
    return files


def directory_of(file: str) -> str:
    """ "[ds] dir" of "[ds] dir/name.vmdk"."""
    return file.rpartition("/")[0]


def provisioning_of(disk: Any) -> v1.DiskProvisioning:
    """How its file was made; UNSPECIFIED where the backing does not tell."""
    if getattr(disk.backing, "thinProvisioned", None):
        return v1.DiskProvisioning.THIN
    if getattr(disk.backing, "eagerlyScrub", None):
        return v1.DiskProvisioning.EAGER_ZEROED_THICK
    told = getattr(disk.backing, "thinProvisioned", None) is not None
    return v1.DiskProvisioning.THICK if told else v1.DiskProvisioning.UNSPECIFIED


# -- what it becomes ---------------------------------------------------------------------------------------------------


class Board:
    """A machine's devices with the changes that are being put together: each sees what the ones before it took.

    Attributes:
        devices: what is there after the changes.
        changes: the whole deviceChange list, in order; everything appends to this one, nothing assigns it.
    """

    def __init__(self, devices: Iterable[Any] = ()) -> None:
        self.devices = list(devices)
        self.changes: list[Any] = []
        self._key = min(-100, *(device.key or 0 for device in self.devices), 0)

    def add(self, device: Any, *, make_file: bool = False) -> Any:
        """A new device; keys of new ones are negative and only tell them apart within one request."""
        self._key -= 1
        device.key = self._key
        self.devices.append(device)
        operation = _dev.VirtualDeviceSpec(operation="add", device=device)
        if make_file:
            operation.fileOperation = _dev.VirtualDeviceSpec.FileOperation.create
        self.changes.append(operation)
        return device

    def edit(self, device: Any, *, profile: list[Any] | None = None) -> None:
        """`device` replaces the one with its key.

        Args:
            profile: storage policy of a disk; None leaves it as it is.
        """
        self.devices = [device if each.key == device.key else each for each in self.devices]
        self.changes.append(_dev.VirtualDeviceSpec(operation="edit", device=device, profile=profile or []))

    def remove(self, device: Any) -> None:
        """Unplug it; the file of a disk stays."""
        self.devices = [each for each in self.devices if each.key != device.key]
        self.changes.append(_dev.VirtualDeviceSpec(operation="remove", device=device))

    # -- disks -----------------------------------------------------------------------------------------------------

    def plug(self, disk: v1.DiskSpec, file: str, *, make_file: bool, profile: list[Any] | None = None) -> Any:
        """Put a disk into a free slot, with a controller of its own where there is none that fits.

        Args:
            file: "[ds]" leaves the name to vSphere; else the path of a file.
            make_file: make it, or take the one that is there.
            profile: its storage policy; None is the datastore's default.
        Raises:
            InvalidSpecError: no controller like that can be had, or all its slots are taken.
        """
        controller = self._controller(disk)
        unit = self._free_unit(controller)
        if unit is None:
            raise InvalidSpecError(f"disk {disk.name}: every slot of its controller is taken")
        device = _dev.VirtualDisk(controllerKey=controller.key, unitNumber=unit, backing=_backing(disk, file))
        if make_file:
            set_size(device, disk.size_bytes)
        if disk.iops_limit:
            device.storageIOAllocation = _iops(disk.iops_limit)
        self.add(device, make_file=make_file)
        self.changes[-1].profile = profile or []
        return device

    def plug_cdrom(self, cdrom: v1.CdromSpec) -> Any:
        """Add a drive, on IDE where there is a place, else on SATA.

        Raises:
            InvalidSpecError: no place is left on either.
        """
        every = [*self._controllers(IDE), *self._controllers(SATA)]
        free = next((each for each in every if self._free_unit(each) is not None), None)
        if free is None:
            wish = v1.DiskSpec(name=cdrom.name, bus=v1.DiskBus.SATA)
            free = self._new_controller(wish, SATA, None)
        drive = _dev.VirtualCdrom(controllerKey=free.key, unitNumber=self._free_unit(free))
        load(drive, cdrom.medium)
        return self.add(drive)

    def _controller(self, disk: v1.DiskSpec) -> Any:
        family, kind = wish_of(disk)
        sharing = disk.sharing or "noSharing"
        fitting = [
            each
            for each in sorted(self._controllers(family), key=lambda each: int(each.busNumber))
            if isinstance(each, kind or family.kind) and sharing_of(each) == sharing
        ]
        index = disk.controller_index
        if index is None:
            free = next((each for each in fitting if self._free_unit(each) is not None), None)
            return free if free is not None else self._new_controller(disk, family, kind)
        taken = next((each for each in self._controllers(family) if each.busNumber == index), None)
        if taken is None:
            return self._new_controller(disk, family, kind)
        if taken not in fitting:
            have = f"{family.name}{index} is a {type(taken).__name__.rpartition('.')[2]} with {sharing_of(taken)}"
            raise InvalidSpecError(f"disk {disk.name}: {have}, which is not what the disk asks for")
        return taken

    def _controllers(self, family: Family) -> list[Any]:
        return [each for each in self.devices if isinstance(each, family.kind)]

    def _free_unit(self, controller: Any) -> int | None:
        family = family_of(controller)
        if family is None:
            return None
        taken = {each.unitNumber for each in self.devices if each.controllerKey == controller.key}
        own = getattr(controller, "scsiCtlrUnitNumber", None)
        taken |= {family.reserved, own if own is not None else family.reserved}
        return next((unit for unit in range(family.units) if unit not in taken), None)

    def _new_controller(self, disk: v1.DiskSpec, family: Family, kind: Any | None) -> Any:
        taken = {each.busNumber for each in self._controllers(family)}
        index = disk.controller_index
        number = next((n for n in range(family.buses) if n not in taken), family.buses) if index is None else index
        if number >= family.buses:
            most = f"a machine has at most {family.buses} {family.name} controllers"
            raise InvalidSpecError(f"disk {disk.name}: no slot is left for it: {most}")
        controller = (kind or _DEFAULT_CLASS[family.name])(busNumber=number)
        set_sharing(controller, disk)
        return self.add(controller)


def cdroms_of(devices: Iterable[Any]) -> list[Any]:
    """Every drive for optical disks."""
    return [each for each in devices if isinstance(each, _dev.VirtualCdrom)]


def cdrom_at(devices: Iterable[Any], slot: str) -> Any | None:
    """The drive in this slot."""
    listed = list(devices)
    return next((drive for drive in cdroms_of(listed) if slot and slot_of(listed, drive) == slot), None)


def medium_of(drive: Any) -> str:
    """Datastore path of what is in it; empty when that is nothing of a datastore."""
    return str(getattr(drive.backing, "fileName", None) or "")


def load(drive: Any, medium: str) -> None:
    """Put this into the drive; empty leaves it to nobody's device.

    Raises:
        InvalidSpecError: no path on a datastore.
    """
    if medium and not _MEDIUM.fullmatch(medium):
        raise InvalidSpecError(
            f"cdrom medium {medium!r}: give a path on a datastore, as in '[datastore1] iso/debian.iso'"
        )
    if medium:
        drive.backing = _dev.VirtualCdrom.IsoBackingInfo(fileName=medium)
    else:
        drive.backing = _dev.VirtualCdrom.RemotePassthroughBackingInfo(deviceName="", exclusive=False)
    there = bool(medium)
    drive.connectable = _dev.VirtualDevice.ConnectInfo(startConnected=there, connected=there, allowGuestControl=True)


def wish_of(disk: v1.DiskSpec) -> tuple[Family, Any | None]:
    """Bus family that the disk asks for, and class of the controller if it asks for one.

    Raises:
        InvalidSpecError: vSphere has none such, or the two contradict each other.
    """
    family = _BUSES.get(disk.bus)
    if family is None:
        raise InvalidSpecError(f"disk {disk.name}: vSphere has no {disk.bus.name} bus")
    if not disk.controller_type:
        return family, None
    if disk.controller_type not in CONTROLLER_TYPES:
        offer = ", ".join(CONTROLLER_TYPES)
        raise InvalidSpecError(f"disk {disk.name}: controller_type {disk.controller_type!r} is none of {offer}")
    of_type, kind = CONTROLLER_TYPES[disk.controller_type]
    if disk.bus is not v1.DiskBus.UNSPECIFIED and of_type is not family:
        raise InvalidSpecError(f"disk {disk.name}: a {disk.controller_type} controller has no {family.name} bus")
    return of_type, kind


def sharing_of(controller: Any) -> str:
    """Bus sharing of a controller, in the spec's words."""
    return str(getattr(controller, "sharedBus", None) or "noSharing")


def set_sharing(controller: Any, disk: v1.DiskSpec) -> None:
    """Share the bus as the disk asks.

    Raises:
        InvalidSpecError: controllers of this family do not share theirs so.
    """
    sharing = disk.sharing or "noSharing"
    family = family_of(controller)
    if family is SCSI:
        controller.sharedBus = sharing
    elif sharing != "noSharing":
        if family is not NVME or sharing != "physicalSharing":
            name = family.name if family else "such"
            raise InvalidSpecError(f"disk {disk.name}: a {name} controller has no {sharing}")
        controller.sharedBus = sharing


def edited(disk: Any, *, size: int = 0, iops_limit: int = 0) -> Any:
    """The disk as a device of an edit: what is left out stays as it is.

    Args:
        size: new capacity in bytes; 0 keeps it.
    """
    device = _dev.VirtualDisk(
        key=disk.key, controllerKey=disk.controllerKey, unitNumber=disk.unitNumber, backing=disk.backing
    )
    set_size(device, size or capacity(disk))
    limit = disk.storageIOAllocation
    device.storageIOAllocation = _iops(iops_limit) if iops_limit else limit
    return device


def set_size(device: Any, size: int) -> None:
    """Capacity in bytes, rounded up to KiB. Source: VirtualDisk.capacityInKB is still required by its schema."""
    kib = -(-size // 1024)
    device.capacityInKB, device.capacityInBytes = kib, kib * 1024


def _iops(limit: int) -> Any:
    return vim.StorageResourceManager.IOAllocationInfo(limit=limit)


def _backing(disk: v1.DiskSpec, file: str) -> Any:
    backing = _dev.VirtualDisk.FlatVer2BackingInfo(fileName=file, diskMode="persistent")
    if disk.existing is None:
        backing.thinProvisioned = kind_of(disk) is v1.DiskProvisioning.THIN
        backing.eagerlyScrub = kind_of(disk) is v1.DiskProvisioning.EAGER_ZEROED_THICK
    return backing


def kind_of(disk: v1.DiskSpec) -> v1.DiskProvisioning:
    """How a new disk is made; thin unless it says otherwise.

    Raises:
        InvalidSpecError: a kind that vSphere lacks.
    """
    kind = disk.provisioning
    if kind is v1.DiskProvisioning.UNSPECIFIED:
        return v1.DiskProvisioning.THIN
    if kind not in (v1.DiskProvisioning.THIN, v1.DiskProvisioning.THICK, v1.DiskProvisioning.EAGER_ZEROED_THICK):
        raise InvalidSpecError(f"disk {disk.name}: provisioning {int(kind)} is unknown here")
    return kind
