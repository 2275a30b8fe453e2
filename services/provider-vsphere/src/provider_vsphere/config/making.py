"""The whole of a machine as one ConfigSpec, stamp included: what CreateVM_Task makes, or CloneVM_Task lays over a
template. Pure: no session, no clock, no lookups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from common import v1
from common.errors import InvalidSpecError, NotSupportedError
from providerkit.planner import boot_data_digest, hypervisor_name
from pyVmomi import vim

from provider_vsphere.config import bootdata, devices, hardware, nics, ovfproperties
from provider_vsphere.config.devices import Board, slot_of
from provider_vsphere.config.nics import macs
from provider_vsphere.session.tree import Entity
from provider_vsphere.stamps import imagestamp, stamp, uploadstamp
from provider_vsphere.stamps.stamp import DiskStamp, Stamp

__all__ = ["detach_unowned", "disk_locators", "machine_name", "macs", "new_machine", "slot_of"]

LONGEST_NAME = 80
"""Characters. Source: VirtualMachineConfigSpec.name."""
DEFAULT_GUEST_ID = "otherGuest64"
DEFAULT_MEMORY_MB = 512
UNNAMED_DISKS = "disks-of-template"
"""Setting of the stamp: slots of disks that came with the template and that the spec does not name, blank-separated."""


def machine_name(identity: v1.MachineIdentity) -> str:
    """The name on vSphere."""
    return fitting(hypervisor_name(identity))


def fitting(name: str) -> str:
    """A name as long as vSphere takes it; a longer one ends with a digest of the whole."""
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: LONGEST_NAME - 17]}-{digest}"


def new_machine(
    spec: v1.MachineSpec,
    record: Stamp,
    *,
    macs: Mapping[str, str],
    networks: Mapping[str, Entity],
    switches: Mapping[str, str],
    datastore_name: str,
    source: Sequence[Any] = (),
    policies: Mapping[str, str] | None = None,
    properties: Sequence[Any] = (),
) -> Any:
    """The configuration of a new machine.

    Args:
        record: who it is; disks, NICs, first-boot data, tags and settings are filled in here.
        macs: MAC of each NIC by its name, as `macs()` gives them.
        networks: network of each NIC by its name.
        switches: UUID of the distributed switch of each distributed port group, by the group's moid.
        datastore_name: for the machine's files, and for disks that name none.
        source: devices of the template; empty makes the machine from nothing. Its NICs go, its first disk becomes the
            spec's first disk, everything else of it stays.
        policies: id of each storage policy by the name that the spec has for it. The first disk's is the machine's own
            as well; a template's disk gets its by `disk_locators`.
        properties: vim.vApp.PropertyInfo of the template's OVF environment.
    Raises:
        InvalidSpecError: the spec can never be met; everything is checked before anything is asked of vSphere.
        ResourceNotFoundError: a network lacks what a NIC needs to be plugged in.
    """
    uid = (spec.identity or v1.MachineIdentity()).uid
    config = vim.vm.ConfigSpec(uuid=uid, instanceUuid=uid)
    shape(config, spec)
    board = Board(source)
    record = _disks(board, spec, record, datastore_name, policies or {}, from_source=bool(source))
    record = _cdroms(board, spec, record)
    record = plug_nics(board, spec, record, macs, networks, switches)
    add_tpm(board, spec)
    config.deviceChange = board.changes
    if not source:
        _from_nothing(config, spec, datastore_name)
        config.vmProfile = policy(spec.disks[:1], policies or {})
    record = replace(
        record,
        boot_digest=boot_data_digest(spec),
        settings=record.settings | hardware.asked(spec),
    )
    boot = bootdata.replacing(spec, macs) if source else bootdata.variables(spec, macs)
    mine = {stamp.KEY: record.text()} | ({imagestamp.KEY: ""} if source else {})  # the source's is not the machine's
    config.extraConfig = options(extra_config(spec) | boot | mine)
    config.vAppConfig = ovfproperties.filled(spec, properties)
    return config


def shape(config: Any, spec: v1.MachineSpec) -> None:
    if spec.cpu is not None:
        hardware.set_cpu(config, spec.cpu)
        config.numCoresPerSocket = spec.cpu.cores_per_socket or 1  # a template's own may not divide the new count
    if spec.memory is not None:
        hardware.set_memory(config, spec.memory)
    hardware.set_firmware(config, spec)
    hardware.set_tuning(config, spec)
    hardware.set_guest_id(config, spec)
    hardware.set_upgrade_policy(config, spec)
    hardware.set_change_tracking(config, spec)
    if spec.description:
        config.annotation = hardware.printable(spec.description)


def _from_nothing(config: Any, spec: v1.MachineSpec, datastore_name: str) -> None:
    """What a clone is told otherwise or takes from its template: name, place of its files, guest, hardware version."""
    if not datastore_name:
        raise InvalidSpecError("placement.datastore: no datastore is known for the machine's files")
    config.name = machine_name(spec.identity or v1.MachineIdentity())
    config.files = vim.vm.FileInfo(vmPathName=f"[{datastore_name}]")
    config.guestId = config.guestId or DEFAULT_GUEST_ID
    if spec.cpu is None:
        config.numCPUs = 1
    if spec.memory is None:
        config.memoryMB = DEFAULT_MEMORY_MB
    if version := hardware.hardware_version(spec):
        config.version = version


def extra_config(spec: v1.MachineSpec) -> dict[str, str]:
    """The spec's own keys, as far as they are extra configuration on vSphere.

    Raises:
        InvalidSpecError: a key that only we may write.
    """
    for key in spec.extra_config:
        if key.lower() in (stamp.KEY, imagestamp.KEY, uploadstamp.KEY) or key.lower().startswith("guestinfo."):
            raise InvalidSpecError(f"extra_config[{key}]: is written by the provider; use boot_data for guestinfo")
    return {key: value for key, value in spec.extra_config.items() if key not in hardware.OUR_KEYS}


def options(values: Mapping[str, str]) -> list[Any]:
    """As vSphere's list; an empty value removes its key."""
    return [vim.option.OptionValue(key=key, value=value) for key, value in values.items()]


# -- devices -----------------------------------------------------------------------------------------------------------


def policy(disks: Sequence[v1.DiskSpec], known: Mapping[str, str]) -> list[Any]:
    """Storage policy of the first of these disks, as a request takes it; nothing where none is asked for."""
    wish = disks[0].storage_policy if disks else ""
    return [vim.vm.DefinedProfileSpec(profileId=known[wish])] if wish else []


def _disks(
    board: Board,
    spec: v1.MachineSpec,
    record: Stamp,
    datastore_name: str,
    policies: Mapping[str, str],
    *,
    from_source: bool,
) -> Stamp:
    wanted = list(spec.disks)
    if from_source:
        if wanted:
            record = record.with_disk(_root(board, wanted.pop(0)))
        record = _with_unnamed(board, record)
    for disk in wanted:
        if disk.image is not None:
            why = "cannot be made from an image; only a machine's first disk can, as a part of its template"
            raise NotSupportedError(f"disk {disk.name}: {why}")
        record = record.with_disk(plug(board, disk, datastore_name, profile=policy([disk], policies)))
    return record


def _root(board: Board, disk: v1.DiskSpec) -> DiskStamp:
    """The template's first disk under the spec's name, edited where the spec wants it larger or limited."""
    existing = devices.disks_of(board.devices)
    if disk.existing is not None or not existing:
        why = "an existing disk cannot take its place" if existing else "the template has no disk to make it of"
        raise InvalidSpecError(f"disk {disk.name}: {why}")
    have = existing[0]
    _same_slot_kind(board, disk, have)
    size = devices.capacity(have)
    if disk.size_bytes and disk.size_bytes < size:
        raise InvalidSpecError(
            f"disk {disk.name}: {disk.size_bytes} bytes asked for, the image needs {size}; a disk never shrinks"
        )
    if disk.size_bytes > size or disk.iops_limit:
        board.edit(devices.edited(have, size=disk.size_bytes, iops_limit=disk.iops_limit))
    kind = disk.provisioning or devices.provisioning_of(have) or v1.DiskProvisioning.THIN
    return _disk_stamp(disk, slot_of(board.devices, have), kind)


def _with_unnamed(board: Board, record: Stamp) -> Stamp:
    """Further disks of a template stay, without a name; the stamp knows that our clone made them."""
    named = {disk.slot for disk in record.disks}
    slots = [slot_of(board.devices, disk) for disk in devices.disks_of(board.devices)]
    unnamed = " ".join(slot for slot in slots if slot and slot not in named)
    return replace(record, settings=record.settings | ({UNNAMED_DISKS: unnamed} if unnamed else {}))


def _same_slot_kind(board: Board, disk: v1.DiskSpec, have: Any) -> None:
    """A disk of a template stays where it is: its guest may not start from another controller.

    Raises:
        InvalidSpecError: the spec wants it elsewhere.
    """
    controller = devices.controller_of(board.devices, have)
    if controller is None:
        raise InvalidSpecError(f"disk {disk.name}: the template's disk is on no controller that is known here")
    family, kind = devices.wish_of(disk)
    where, asks = slot_of(board.devices, have), bool(disk.controller_type) or disk.bus is not v1.DiskBus.UNSPECIFIED
    wrong = [
        asks and not isinstance(controller, kind or family.kind),
        disk.controller_index is not None and disk.controller_index != controller.busNumber,
        bool(disk.sharing) and disk.sharing != devices.sharing_of(controller),
    ]
    if any(wrong):
        have_it = f"{where} ({type(controller).__name__.rpartition('.')[2]}, {devices.sharing_of(controller)})"
        raise InvalidSpecError(f"disk {disk.name}: its image has it on {have_it}, which is not what the spec asks for")


def plug(
    board: Board, disk: v1.DiskSpec, datastore_name: str, *, kept: str = "", profile: list[Any] | None = None
) -> DiskStamp:
    """Add a disk: a new one, or one that is there already.

    Args:
        kept: file of a disk of this name that we made and unplugged before; its content is taken up again.
        profile: its storage policy, as `policy` gives it.
    Raises:
        InvalidSpecError: there is no place for it.
    """
    file = disk.existing.id if disk.existing is not None else kept
    if not file:
        datastore = disk.storage or datastore_name
        if not datastore:
            raise InvalidSpecError(f"disk {disk.name}: no datastore is known for it")
        file = f"[{datastore}]"
    device = board.plug(disk, file, make_file=disk.existing is None and not kept, profile=profile)
    return _disk_stamp(disk, slot_of(board.devices, device), devices.kind_of(disk))


def _disk_stamp(disk: v1.DiskSpec, slot: str, kind: v1.DiskProvisioning) -> DiskStamp:
    return DiskStamp(
        name=disk.name,
        slot=slot,
        owned=disk.existing is None,
        image_id=disk.image.id if disk.image is not None else "",
        provisioning=kind.name or "THIN",
    )


def disk_locators(
    spec: v1.MachineSpec, source: Sequence[Any], datastore: str, policies: Mapping[str, str] | None = None
) -> list[Any]:
    """For CloneSpec.location.disk: how the template's first disk is copied, where the spec wants it made in another way
    than the template's. Nothing is left to say for a disk that is new: its backing and its change tell.

    Args:
        datastore: moid of where it goes.
        policies: as in `new_machine`.
    """
    found = devices.disks_of(source)
    if not found or not spec.disks:
        return []
    wish, profile = spec.disks[0], policy(spec.disks, policies or {})
    locator = vim.vm.RelocateSpec.DiskLocator(diskId=found[0].key, datastore=vim.Datastore(datastore), profile=profile)
    if wish.provisioning not in (v1.DiskProvisioning.UNSPECIFIED, devices.provisioning_of(found[0])):
        locator.diskBackingInfo = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName="",
            diskMode="persistent",
            thinProvisioned=wish.provisioning is v1.DiskProvisioning.THIN,
            eagerlyScrub=wish.provisioning is v1.DiskProvisioning.EAGER_ZEROED_THICK,
        )
    elif not profile:
        return []
    return [locator]


def _cdroms(board: Board, spec: v1.MachineSpec, record: Stamp) -> Stamp:
    """Drives of the spec; those of a template stay as they are."""
    slots = {cdrom.name: slot_of(board.devices, board.plug_cdrom(cdrom)) for cdrom in spec.cdroms}
    return replace(record, cdroms=slots)


def plug_nics(
    board: Board,
    spec: v1.MachineSpec,
    record: Stamp,
    macs: Mapping[str, str],
    networks: Mapping[str, Entity],
    switches: Mapping[str, str],
) -> Stamp:
    """A template's NICs go even where the spec has none: they would sit on networks that nobody asked for."""
    for card in nics.cards(board.devices):
        board.remove(card)
    for nic in spec.nics:
        mac = macs[nic.name]
        board.add(nics.card(nic, mac, networks[nic.name], switches))
        record = record.with_nic(nics.record(nic, mac))
    return record


def add_tpm(board: Board, spec: v1.MachineSpec) -> None:
    """The TPM that the spec asks for, unless there is one."""
    there = any(isinstance(each, vim.vm.device.VirtualTPM) for each in board.devices)
    if hardware.wants_tpm(spec) and not there:
        board.add(vim.vm.device.VirtualTPM())


def detach_unowned(present: Sequence[Any], record: Stamp | None) -> Any | None:
    """A ConfigSpec that unplugs every disk that we did not make, since destroying a VM takes the files of all that are
    plugged in; None when there is no such disk."""
    owned: set[str] = set()
    if record is not None:
        owned |= {disk.slot for disk in record.disks if disk.owned}
        owned |= set(record.settings.get(UNNAMED_DISKS, "").split())
    board = Board(present)
    for disk in devices.disks_of(present):
        if slot_of(present, disk) not in owned:
            board.remove(disk)
    return vim.vm.ConfigSpec(deviceChange=board.changes) if board.changes else None
