"""Adoption: our stamp on a VM that somebody else made, and nothing else of it changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from common import faults, logging, v1
from common.clock import Clock
from common.errors import ForeignMachineError, MachineNotFoundError, NameConflictError, NotSupportedError
from providerkit.planner import ADOPTED_SETTING

from provider_vsphere import machines, unread
from provider_vsphere.config import devices, editing, nics
from provider_vsphere.session.login import Login
from provider_vsphere.session.tree import Entity
from provider_vsphere.session.vsphere import Vsphere
from provider_vsphere.stamps import stamp
from provider_vsphere.stamps.stamp import DiskStamp, NicStamp, Stamp

log = logging.get(__name__)

ADOPTED = faults.declare("vsphere.adopted", "a VM of others carries our stamp, and nobody knows yet")


async def adopt(vsphere: Vsphere, clock: Clock, machine_id: str, identity: v1.MachineIdentity) -> None:
    """Stamp it in one task, which vSphere refuses if it has changed since we looked.

    Raises:
        MachineNotFoundError: there is no VM with this id.
        ForeignMachineError: it carries a stamp already, or is no machine of its own.
        NotSupportedError: it is a template, which vSphere lets nobody change: an image is its adoption (ADR 16).
        NameConflictError: another VM has the UID.
    """
    doing = f"adopt machine {machine_id}"
    vsphere.login(doing)
    known = vsphere.tree.get(machine_id)
    if known is None or known.kind != "VirtualMachine":
        raise MachineNotFoundError(f"{doing}: vSphere has no VM with this id")
    await vsphere.refresh(known)
    entity = vsphere.tree.get(machine_id)
    if entity is None:
        raise MachineNotFoundError(f"{doing}: it went away meanwhile")
    unread.refuse_away(vsphere.tree, entity, doing)
    unread.refuse(vsphere.tree, identity.uid, doing)
    if entity.facts.get("config.template"):
        path = vsphere.tree.path(entity)
        raise NotSupportedError(
            f"{doing}: it is a template; name it in a VMImage (source.vsphere.templateName: {path}), which leaves it "
            "as it is, or make it a virtual machine first"
        )
    mark = machines.stamp_of(entity)
    if mark is not None:
        if mark.identity() == identity:
            return
        raise ForeignMachineError(f"{doing}: it carries the stamp of {mark.owner} for {mark.namespace}/{mark.name}")
    if machines.image_stamp_of(entity) is not None:
        raise ForeignMachineError(f"{doing}: it is an image")
    if machines.upload_of(entity) is not None:
        raise ForeignMachineError(f"{doing}: it lends a disk its way in, and goes when that is there")
    if others := [each for each in vsphere.tree.with_uuid(identity.uid) if each.moid != machine_id]:
        raise NameConflictError(f"{doing}: {vsphere.tree.path(others[0])} has the UID {identity.uid} already")
    edit = editing.adopt(first_stamp(entity, identity, int(clock.now().timestamp())), entity.uuid)
    edit.changeVersion = entity.facts.get("config.changeVersion")

    def begin(login: Login) -> Any:
        return vsphere.machine(entity, login).ReconfigVM_Task(edit)

    await vsphere.task(doing, begin)
    await vsphere.refresh(entity)
    log.info("vsphere.machine.adopted", uid=identity.uid, id=machine_id, name=entity.name)
    await faults.point(ADOPTED)


def first_stamp(entity: Entity, identity: v1.MachineIdentity, created: int) -> Stamp:
    """Names for its disks and NICs in the order of the devices, which is the guest's. We made none of its disks."""
    board = entity.facts.get("config.hardware.device") or ()
    record = replace(stamp.of(identity, created), settings={ADOPTED_SETTING: "true"})
    slots = [devices.slot_of(board, disk) for disk in devices.disks_of(board)]
    for index, slot in enumerate(filter(None, slots)):
        record = record.with_disk(DiskStamp(name=f"disk{index}", slot=slot, owned=False, provisioning=""))
    for index, card in enumerate(sorted(nics.cards(board), key=lambda card: int(card.key or 0))):
        if mac := (card.macAddress or "").lower():
            record = record.with_nic(NicStamp(name=f"nic{index}", mac=mac))
    return record
