"""One change of a plan, carried out: which verb of the driver it is, and with what."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Sequence

from common import v1
from common.errors import InternalError

from .driver import Driver
from .record import nic_settings

_Kind = v1.ChangeKind
_NO_SHAPE = (_Kind.CREATE, _Kind.SET_POWER, _Kind.RESTART)
_SAME_VERB = {_Kind.SET_EXTRA_CONFIG: _Kind.SET_TUNING}
_WHOLE = {_Kind.SET_TUNING, _Kind.SET_ATTRIBUTES}
"""One call of the verb makes every change of this kind, whatever its subject."""
_RULES = "placement.affinity"
"""Of a placement, rules are one verb and the place is another."""


def next_step(doable: Sequence[v1.Change]) -> list[v1.Change]:
    """The first change and those that the same verb makes with it."""
    first = _verb_of(doable[0])
    return [change for change in doable if _verb_of(change) == first]


def shape_steps(doable: Sequence[v1.Change]) -> list[list[v1.Change]]:
    """All steps of shape, in order, if one of them is next: what may be made in one piece."""
    if not doable or doable[0].kind in _NO_SHAPE:
        return []
    steps, rest = [], [change for change in doable if change.kind not in _NO_SHAPE]
    while rest:
        steps.append(next_step(rest))
        rest = [change for change in rest if change not in steps[-1]]
    return steps


def step_key(change: v1.Change) -> tuple[int, str, str, str]:
    """What makes a change the same one in the next plan."""
    return (int(change.kind), change.field, change.subject, change.message)


def _verb_of(change: v1.Change) -> tuple[v1.ChangeKind, str]:
    kind = _SAME_VERB.get(change.kind, change.kind)
    if kind is _Kind.SET_PLACEMENT:
        return kind, _RULES if change.field.startswith(_RULES) else "place"
    return kind, "" if kind in _WHOLE else change.subject


def shape_step(
    driver: Driver, want: v1.MachineSpec, seen: v1.Machine, step: Sequence[v1.Change]
) -> Callable[[], Awaitable[None]]:
    """The verb that makes a step; create, power and restart are not steps of shape.

    What a running machine cannot take now is left out, so that the verb gets only what it may do.

    Raises:
        InternalError: no verb makes this kind of change.
    """
    kind, subject = step[0].kind, step[0].subject
    uid = want.identity.uid if want.identity is not None else ""
    live = seen.power is not v1.PowerState.OFF
    fields = {change.field for change in step}
    disks = {disk.name: disk for disk in want.disks}
    nics = {nic.name: nic for nic in want.nics}
    match kind:
        case _Kind.SET_CPU:
            return lambda: driver.set_cpu(uid, _cpu(want, seen, fields, live), live=live)
        case _Kind.SET_MEMORY:
            return lambda: driver.set_memory(uid, _memory(want, seen, fields, live), live=live)
        case _Kind.SET_FIRMWARE:
            return lambda: driver.set_firmware(uid, want.firmware or v1.FirmwareSpec())
        case _Kind.ATTACH_DISK:
            return lambda: driver.attach_disk(uid, disks[subject], live=live)
        case _Kind.GROW_DISK:
            return lambda: driver.grow_disk(uid, subject, disks[subject].size_bytes, live=live)
        case _Kind.UPDATE_DISK:
            return lambda: driver.update_disk(uid, _disk(disks[subject], seen, fields), live=live)
        case _Kind.MOVE_DISK:
            return lambda: driver.move_disk(uid, subject, disks[subject].storage, live=live)
        case _Kind.DETACH_DISK:
            return lambda: driver.detach_disk(uid, subject, live=live)
        case _Kind.ATTACH_NIC:
            return lambda: driver.attach_nic(uid, nics[subject], live=live)
        case _Kind.UPDATE_NIC:
            return lambda: driver.update_nic(uid, _nic(nics[subject], seen, fields), live=live)
        case _Kind.DETACH_NIC:
            return lambda: driver.detach_nic(uid, subject, live=live)
        case _Kind.SET_CDROM:
            cdroms = {cdrom.name: cdrom for cdrom in want.cdroms}
            return lambda: driver.set_cdrom(uid, cdroms[subject], live=live)
        case _Kind.DETACH_CDROM:
            return lambda: driver.detach_cdrom(uid, subject)
        case _Kind.SET_BOOT_DATA:
            return lambda: driver.set_boot_data(uid, want)
        case _Kind.SET_TAGS:
            return lambda: driver.set_tags(uid, sorted(set(want.tags)))
        case _Kind.SET_DESCRIPTION:
            return lambda: driver.set_description(uid, want.description)
        case _Kind.SET_ATTRIBUTES:
            return lambda: driver.set_attributes(uid, dict(want.attributes))
        case _Kind.SET_PLACEMENT:
            placement = want.placement or v1.Placement()
            if step[0].field.startswith(_RULES):
                return lambda: driver.set_affinity(uid, list(placement.affinity))
            return lambda: driver.set_placement(uid, _moved(placement, fields))
        case _Kind.SET_TUNING | _Kind.SET_EXTRA_CONFIG:
            return lambda: driver.set_tuning(uid, want)
        case _:
            raise InternalError(f"no verb makes a change of kind {kind.name}")


def _cpu(want: v1.MachineSpec, seen: v1.Machine, fields: set[str], live: bool) -> v1.CpuSpec:
    state = seen.cpu or v1.CpuState()
    cpu = copy.copy(want.cpu) if want.cpu is not None else v1.CpuSpec(count=state.configured_count or state.count)
    if live:
        if "cpu.count" not in fields:
            cpu.count = state.count
        cpu.cores_per_socket = state.cores_per_socket
        cpu.nested_virtualization = state.nested_virtualization
    return cpu


def _memory(want: v1.MachineSpec, seen: v1.Machine, fields: set[str], live: bool) -> v1.MemorySpec:
    state = seen.memory or v1.MemoryState()
    memory = copy.copy(want.memory) if want.memory is not None else v1.MemorySpec()
    if want.memory is None:
        memory.size_bytes = state.configured_bytes or state.size_bytes
    if live and "memory.size_bytes" not in fields and seen.memory is not None:
        memory.size_bytes = seen.memory.size_bytes
    return memory


def _disk(want: v1.DiskSpec, seen: v1.Machine, fields: set[str]) -> v1.DiskSpec:
    """Fields that are not part of the step keep what the disk has."""
    disk, where = copy.copy(want), f"disks[{want.name}]"
    if f"{where}.iops_limit" not in fields:
        disk.iops_limit = int(seen.settings.get(f"{where}.iops_limit") or 0)
    for name in ("sharing", "storage_policy"):
        if f"{where}.{name}" not in fields:
            setattr(disk, name, seen.settings.get(f"{where}.{name}", ""))
    return disk


def _moved(placement: v1.Placement, fields: set[str]) -> v1.Placement:
    """Where it shall go, and nothing of what it need not leave."""
    names = [field.removeprefix("placement.") for field in fields]
    return v1.Placement(**{name: getattr(placement, name) for name in names})


def _nic(want: v1.NicSpec, seen: v1.Machine, fields: set[str]) -> v1.NicSpec:
    """Fields that are not part of the step keep what the NIC has, so that the driver changes nothing else."""
    nic = copy.copy(want)
    have = next((have for have in seen.nics if have.name == want.name), v1.Nic())
    if f"nics[{want.name}].network" not in fields:
        nic.network = have.network
    if f"nics[{want.name}].model" not in fields:
        nic.model = have.model
    if f"nics[{want.name}].mac" not in fields:
        nic.mac = have.mac
    have_settings = {field: seen.settings.get(f"nics[{want.name}].{field}", "") for field in nic_settings(want)}
    if f"nics[{want.name}].mtu" not in fields:
        nic.mtu = int(have_settings["mtu"] or 0)
    if f"nics[{want.name}].firewall" not in fields:
        nic.firewall = have_settings["firewall"] == "true"
    if f"nics[{want.name}].rate_limit_bytes" not in fields:
        nic.rate_limit_bytes = int(have_settings["rate_limit_bytes"] or 0)
    if f"nics[{want.name}].trunks" not in fields:
        nic.trunks = [text for text in have_settings["trunks"].split(";") if text]
    return nic
